import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy, margin
from robustcls.core.seeds import mix
from robustcls.models.wrappers.averaged import Averaged, averaged, draws_of, restart, single_draw
from robustcls.runtime.fused import Counted
from robustcls.runtime.search import make_search_model
from tests.helpers.eval_models import make_batch, make_net


class Noisy(nn.Module):
    """A network that adds noise to the pixels, squares them, and computes logits."""

    def __init__(self, noise: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.head = noise, nn.Linear(12, 3)

    def forward(self, x):
        return self.head((x + self.noise * torch.randn_like(x)).flatten(1) ** 2)


class Listed(Noisy):
    """The same network with given noise, which depends only on the number of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.listed, self.calls = torch.randn(8, 5, 3, 2, 2, generator=torch.Generator().manual_seed(3)), 0

    def forward(self, x):
        self.calls += 1
        return self.head((x + 0.3 * self.listed[self.calls % 8]).flatten(1) ** 2)


def batch(n=5):
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def test_logits_and_gradient_are_the_mean_of_explicit_draws():
    model, (x, y) = Noisy(), batch()
    found = averaged(model, draws=7)
    gradient = input_gradient(found, x, y)
    restart(found, 5)
    logits = found(x)
    expected = []
    for number in range(7):
        torch.manual_seed(mix(mix(5, 0), number))
        expected.append(model(x))
    torch.testing.assert_close(logits, sum(expected) / 7)
    seen = x.clone().requires_grad_()
    mean = 0
    for number in range(7):
        torch.manual_seed(mix(0, number))
        mean = mean + model(seen) / 7
    torch.testing.assert_close(gradient, torch.autograd.grad(cross_entropy(mean, y).sum(), seen)[0])


def test_the_gradient_of_many_draws_is_the_closed_form():
    """The expectation of (x + noise)^2 is x^2 + variance, so its gradient contains no noise."""
    model, (x, y) = Noisy(), batch()
    other = (y + 1) % 3
    gap = lambda logits, y: (logits.gather(1, other[:, None]) - logits.gather(1, y[:, None])).squeeze(1)  # noqa: E731
    found = input_gradient(averaged(model, draws=1000), x, y, gap)
    weight = model.head.weight
    expected = 2 * x * (weight[other] - weight[y]).view_as(x)
    one = input_gradient(averaged(model, draws=1), x, y, gap)
    assert (found - expected).abs().max() < 0.05
    assert (one - expected).abs().max() > 0.1, "a single draw is far off"


def test_log_probabilities_averaged_give_the_same_margins_and_entropies():
    model, (x, y) = Listed(), batch()
    logits = averaged(model, draws=8)(x)
    logs = sum(Listed.forward(model, x).log_softmax(1) for _ in range(8)) / 8
    torch.testing.assert_close(margin(logits, y), margin(logs, y))
    torch.testing.assert_close(cross_entropy(logits, y), cross_entropy(logs, y))


def test_the_gradient_is_that_of_foolbox():
    eagerpy = pytest.importorskip("eagerpy")
    foolbox = pytest.importorskip("foolbox")
    x, y = batch()
    theirs = foolbox.models.ExpectationOverTransformationWrapper(
        foolbox.PyTorchModel(Listed().eval(), bounds=(0, 1), device="cpu"), n_steps=8
    )
    images = eagerpy.astensor(x)
    _, expected = eagerpy.value_and_grad(
        lambda seen: eagerpy.crossentropy(theirs(seen), eagerpy.astensor(y)).sum(), images
    )
    torch.testing.assert_close(input_gradient(averaged(Listed(), draws=8), x, y), expected.raw)


def test_each_pass_has_draws_of_its_own_and_the_same_after_a_restart():
    model, (x, _) = averaged(Noisy(), draws=2), batch()
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    model.restart(0)
    assert torch.equal(model(x), first)
    model.restart(1)
    assert not torch.equal(model(x), first)


def test_torchs_generator_is_left_as_it_was():
    model, (x, _) = averaged(Noisy()), batch()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    model(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_single_draw_is_the_random_model_itself():
    model, (x, _) = averaged(averaged(Noisy(), draws=3), draws=4), batch()
    assert draws_of(model) == 12
    with single_draw(model):
        assert draws_of(model) == 1
        restart(model, 9)
        torch.manual_seed(mix(mix(9, 1), 0))
        torch.testing.assert_close(model(x), model.model.model(x))
    assert draws_of(model) == 12


def test_it_is_neither_copied_nor_folded_and_its_passes_are_counted():
    net, (x, y) = make_net(), make_batch(4)
    model = averaged(net, draws=3)
    search = make_search_model(model, "bf16", x)
    assert isinstance(search, Counted)
    assert search.model is model, "a copy would have its own noise, or none"
    search.forwards = 0
    input_gradient(search, x, y)
    assert (search.forwards, search.backwards) == (12, 12)
    assert make_search_model(net, "fp32", x) is not net


def test_what_the_model_says_of_itself_is_kept():
    net = make_net()
    net.classes, net.input_size = ("a", "b", "c", "d"), (3, 8, 8)
    model = robustcls.averaged(net, draws=2)
    assert (model.classes, model.input_size, model.training) == (net.classes, net.input_size, False)
    assert model.title == "averaged(Net, draws=2)"
    assert isinstance(model, Averaged)


def test_a_mean_of_no_draws_is_refused():
    with pytest.raises(InputError, match="needs 1 draw or more"):
        averaged(make_net(), draws=0)
