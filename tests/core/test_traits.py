from functools import partial

from robustcls.core.traits import Traits, traits, traits_of


def test_an_attack_that_declares_nothing_needs_gradients_and_stays_in_the_ball():
    assert traits_of(lambda model, x, y, threat: x) == Traits(True, False, False, False)


def test_declared_traits_survive_bound_options():
    @traits(gradients=False, minimum_norm=True)
    def attack(model, x, y, threat, *, steps=1):
        return x

    assert traits_of(partial(partial(attack, steps=2))) == Traits(gradients=False, minimum_norm=True)
