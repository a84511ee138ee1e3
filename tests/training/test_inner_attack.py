"""The inner attack of an objective: it attacks the given model with the given loss, as its traits allow."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl
from robustcls.core.objective import Loss
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits
from robustcls.runtime.fused import FusedModel
from robustcls.training.inner_attack import InnerAttack
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import SMALL, values_of

THREAT = ThreatModel("linf", 0.1)


def batch_of(run, count=16):
    return tuple(part[:count] for part in run.train.batch())


def seen_by(run, model, x, y, **options):
    """Return the adversarial images, and the models that the attack was run on."""
    inner, seen = run.state.inner.function, []

    def spy(attacked, *arguments, **more):
        seen.append(attacked)
        return inner(attacked, *arguments, **more)

    run.state.inner.function = spy
    run.state.seed(1)
    x_adv = run.state.attack(model, x, y, **options)
    run.state.inner.function = inner
    return x_adv, seen


def test_the_twin_of_the_model_that_is_given_is_attacked(make_run):
    run = make_run(**SMALL, ema=0.9)
    for x, y in run.batches():
        run.state.train_step(x, y)
    x, y = batch_of(run)
    state = run.state
    for model in (state.model, state.average.model):
        x_adv, seen = seen_by(run, model, x, y)
        assert seen == [state.twins[model]]
        own = copy.deepcopy(model).eval()
        with torch.no_grad():
            assert torch.allclose(seen[0](x), own(x), atol=1e-4)
        assert (x_adv != x).any()
    assert not torch.equal(*(seen_by(run, model, x, y)[0] for model in (state.model, state.average.model)))


def test_a_model_without_a_twin_is_attacked_itself_and_left_as_it_was(make_run):
    run = make_run(**SMALL)
    teacher = copy.deepcopy(run.state.model).train()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before, modes = values_of(teacher), [m.training for m in teacher.modules()]
    x, y = batch_of(run)
    x_adv, seen = seen_by(run, teacher, x, y)
    assert seen == [teacher]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert [m.training for m in teacher.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    run.state.seed(1)
    expected = run.state.inner(FusedModel(teacher), x, y, generator=run.state.generator)
    torch.testing.assert_close(x_adv, expected, atol=2e-2, rtol=0)
    with torch.no_grad():
        losses = [cross_entropy(teacher.eval()(images), y).mean() for images in (x, x_adv)]
    assert losses[1] > losses[0]


@traits(reference=True)
def squared(logits, reference):
    """A divergence defined by the user."""
    return (logits - reference).square().sum(1)


def test_a_divergence_of_ones_own_gets_the_models_clean_logits():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).requires_grad_(False)
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    with torch.no_grad():
        clean = net(x)
    made = {}
    for name, options in {
        "by its trait": {"loss": squared},
        "given": {"loss": lambda logits, other: (logits - other).square().sum(1), "reference": clean},
        "another": {"loss": squared, "reference": clean.flip(1)},
        "kl": {"loss": kl},
        "labels": {},
    }.items():
        generator = torch.Generator().manual_seed(0)
        made[name] = InnerAttack("pgd(steps=4)", "mine", THREAT)(net, x, y, generator=generator, **options)
    assert torch.equal(made["by its trait"], made["given"])
    assert not torch.equal(made["given"], made["another"])
    assert not torch.equal(made["given"], made["labels"])
    with torch.no_grad():
        far = {name: squared(net(x_adv), clean).mean().item() for name, x_adv in made.items()}
    assert far["given"] > 1.05 * far["labels"]
    assert far["given"] > far["another"]


@pytest.mark.parametrize("options", [{"loss": squared}, {"loss": squared, "reference": torch.zeros(6, 3)}])
def test_a_divergence_needs_an_attack_that_can_take_it(options):
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    for spec, words in {
        "fgsm": r"fgsm starts at the clean image, where mine has no gradient: give `adv=.fgsm\(random_start=True\).`",
        "apgd_ce": "objective mine needs an inner attack that takes its loss",
    }.items():
        with pytest.raises(InputError, match=words):
            InnerAttack(spec, "mine", THREAT)(torch.nn.Flatten(), x, y, generator=torch.Generator(), **options)


# The user's own plug-ins are recognised by their traits


@traits(attacks=False)
def plain(model, x, y, attack):
    """An objective that does not attack."""
    logits = model(x)
    return Loss(cross_entropy(logits, y).mean(), logits)


def pulled(model, x, y, attack):
    """An objective as in CONTRIBUTING, whose attack moves away from the model's own clean prediction."""
    x_adv = attack(model, x, y, loss=kl)
    clean, attacked = model(x), model(x_adv)
    return Loss(cross_entropy(clean, y).mean() + kl(attacked, clean).mean(), attacked, seen="adversarial")


@traits(makes_examples=True)
def noisy(run, x, y, *, scale: float = 0.5):
    """A step that makes its own examples and keeps a tensor in the state of the run."""
    delta = scale * run.threat.eps * torch.ones_like(x)
    run.state["delta"] = delta * run.share_done
    loss = run.gradient(x, y, lambda *_, **__: run.threat.project(x + delta, x))
    run.update()
    return loss


def twice(run, x, y):
    """A step with the signature `(run, x, y)`, which uses the attack of the run."""
    for _ in range(2):
        loss = run.gradient(x, y, run.attack)
        run.update()
    return loss


@pytest.fixture
def mine(monkeypatch):
    functions = {f.__name__: f for f in (plain, pulled, noisy, twice)}
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(**functions))


@pytest.mark.parametrize(
    ("options", "adversarial", "makes_examples", "adv"),
    [
        ({"objective": "mine:plain"}, False, False, "none"),
        ({"objective": "mine:pulled"}, True, False, "pgd(steps=1)"),
        ({"step": "mine:noisy(scale=0.25)", "adv": None}, True, True, "none"),
        ({"step": "mine:twice"}, True, False, "pgd(steps=1)"),
    ],
)
def test_plug_ins_of_ones_own(options, adversarial, makes_examples, adv, mine, make_run):
    run = make_run(**{**SMALL, "adv": "pgd(steps=1)", **options})
    config = run.config
    assert (config.is_adversarial, config.makes_examples, config.adv) == (adversarial, makes_examples, adv)
    rehearse(run)
    fit(run)
    robust = [row.train_robust is not None for row in run.state.history]
    assert robust == [adversarial] * 2
    assert ("under pgd(steps=2)" in run.selected_by) == adversarial
    saved = torch.load(run.folder / "last.pt", weights_only=True)["steps"][0]
    assert list(saved) == (["delta"] if makes_examples else [])
