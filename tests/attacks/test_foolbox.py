"""Minimum-norm attacks, our own and foolbox's: closed forms on linear models, starts, censoring, and models that only one
attack breaks."""

import ast
import inspect
import logging
import warnings

import foolbox as fb
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustcls
from robustcls.attacks import _foolbox, foolbox
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from tests.helpers.attack_nets import linear, trained_on_digits
from tests.helpers.seeds import seeded

BOX = ThreatModel("linf", 1)
OWN = ["cw", "ddn", "deepfool", "fmn"]
ALL = [*OWN, *foolbox.__all__]
LABELS_ALONE = {"boundary", "hopskipjump", "spatial", "salt_and_pepper", "blur", "contrast"}


def near_grey(n: int = 12, size: int = 4) -> Tensor:
    return 0.45 + 0.1 * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits(30)


def test_all_are_plugins_that_declare_what_they_are():
    for name in ALL:
        traits = traits_of(plugins.load("attack", name))
        assert traits.minimum_norm == (name != "spatial")
        assert traits.unrestricted == (name == "spatial")
        assert traits.gradients == (name not in LABELS_ALONE)
        assert not traits.universal


def test_foolbox_is_imported_only_when_an_attack_runs():
    source = inspect.getsource(foolbox) + inspect.getsource(_foolbox)
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) > 5
    assert not [node for node in imports if ast.unparse(node).split()[1].split(".")[0] in ("foolbox", "eagerpy")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "norm", "num_classes", "most"),
    [
        ("fmn", "linf", 5, 1.01),
        ("fmn", "l2", 5, 1.01),
        ("fmn", "l1", 5, 1.03),
        ("ddn", "l2", 2, 1.01),  # with more classes, cross-entropy does not point at the nearest one
        ("deepfool", "linf", 5, 1.03),
        ("deepfool", "l2", 5, 1.03),
        ("deepfool(overshoot=0.2)", "l2", 5, 1.21),
        ("cw", "l2", 5, 1.05),
        ("ead", "l1", 5, 1.1),
        ("boundary(steps=2000)", "l2", 2, 1.8),
        ("hopskipjump(steps=10)", "linf", 2, 1.1),
        ("hopskipjump(steps=10)", "l2", 2, 1.05),
    ],
)
@torch.no_grad()
def test_the_distance_to_a_linear_models_boundary(spec, norm, num_classes, most):
    """The distance is the margin divided by the dual norm of the weight difference; only in l1 does the box matter."""
    model, x = linear(num_classes, 3, 4, 4), near_grey()
    y = model(x).argmax(1)
    weight, logits = model[1].weight, model(x)
    dual = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    slopes = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ord=dual, dim=2)
    others = F.one_hot(y, num_classes) == 0
    gaps = logits.gather(1, y[:, None]) - logits
    nearest = (gaps[others] / slopes[others]).view(len(x), -1).amin(1)
    if norm == "l1":
        rows = [(weight[k] - weight[y[i]], gaps[i, k], x[i].flatten()) for i, k in others.nonzero()]
        nearest = torch.stack([l1_in_the_box(*row) for row in rows]).view(len(x), -1).amin(1)

    x_adv = robustcls.attack(model, x, y, ThreatModel(norm, 0.01), spec)

    share = ThreatModel(norm, 0.01).distance(x_adv, x) / nearest
    assert (model(x_adv).argmax(1) != y).all()
    assert share.min() > 1 - 1e-3, "nothing beats the optimum"
    assert share.max() < most


@pytest.mark.parametrize(
    ("spec", "norm", "kind"),
    [
        ("fmn", "linf", "LInfFMNAttack"),
        ("ddn", "l2", "DDNAttack"),
        ("deepfool", "linf", "LinfDeepFoolAttack"),
        ("deepfool", "l2", "L2DeepFoolAttack"),
        ("cw(steps=100, binary_search_steps=3, initial_const=1.0)", "l2", "L2CarliniWagnerAttack"),
    ],
)
def test_the_distances_are_foolboxs(trained, spec, norm, kind):
    """They match a plain run of foolbox. FMN in l2 and l1 is left out: foolbox's never projects in l2, and ours respects the
    box in l1."""
    net, x, y = trained
    options = {
        "cw": {"steps": 100, "binary_search_steps": 3, "initial_const": 1.0, "stepsize": 0.05, "abort_early": False}
    }
    attack = getattr(fb.attacks, kind)(**options.get(spec[:2], {}))
    theirs = attack(fb.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[0]
    ours = robustcls.attack(net, x, y, ThreatModel(norm, 0.1), spec)
    found, expected = (ThreatModel(norm, 0.1).distance(x_adv, x) for x_adv in (ours, theirs))
    assert (net(ours).argmax(1) != y).all()
    assert (found / expected).median() == pytest.approx(1, abs=2e-3)
    assert (found / expected).log().mean() == pytest.approx(0, abs=5e-3)
    assert ((found / expected - 1).abs() < 0.01).float().mean() > 0.8


def l1_in_the_box(slope: Tensor, gap: Tensor, x: Tensor) -> Tensor:
    """Return the l1 distance: the steepest pixels move to the edge of the box, one after another, until the gap is closed."""
    order = slope.abs().argsort(descending=True)
    room = torch.where(slope > 0, 1 - x, x)[order]
    gained = (slope.abs()[order] * room).cumsum(0)
    last = int((gained < gap).sum())
    before = gained[last - 1] if last else 0
    return room[:last].sum() + (gap - before) / slope.abs()[order][last]


@pytest.mark.parametrize(("norm", "most"), [("linf", 0.14), ("l2", 0.75), ("l1", 2.2)])
def test_the_nearest_in_every_norm_agrees_with_fab(trained, norm, most):
    net, x, y = (part[:12] if isinstance(part, Tensor) else part for part in trained)
    threat = ThreatModel(norm, 0.01)
    found, peer = (
        threat.distance(robustcls.attack(net, x, y, threat, spec), x)
        for spec in ("fmn", "fab_t(steps=30, early_stop=False)")
    )
    assert (found > 0).all()
    assert 0.9 < (found / peer).median() < 1.1
    assert found.median() < most


@pytest.mark.slow
def test_confidence_is_a_margin(trained):
    net, x, y = trained[0], trained[1][:8], trained[2][:8]
    near, far = (robustcls.attack(net, x, y, ThreatModel("l2", 1), f"cw(steps=50, confidence={c})") for c in (0.0, 1.0))
    with torch.no_grad():
        gaps = [margin(net(x_adv), y) for x_adv in (near, far)]
    assert 0 < gaps[0].min() < gaps[0].median() < 0.1
    found = (far != x).flatten(1).any(1)
    assert found.sum() >= 7
    assert gaps[1][found].min() > 0.999
    assert ((far - x).flatten(1).norm(dim=1) > (near - x).flatten(1).norm(dim=1))[found].all()


class Brightness(nn.Module):
    """A model that predicts class 1 if the mean of the pixels is above 0.3."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.3 - mean, mean - 0.3], 1)


class Roughness(nn.Module):
    """A model that predicts class 1 if neighbouring pixels differ little."""

    def forward(self, x: Tensor) -> Tensor:
        rough = x.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack([rough - 0.2, 0.2 - rough], 1)


class Quarter(nn.Module):
    """A model that predicts class 1 if the upper left is darker than the lower right."""

    def forward(self, x: Tensor) -> Tensor:
        gap = x[:, :, :2, :2].mean((1, 2, 3)) - x[:, :, -2:, -2:].mean((1, 2, 3))
        return torch.stack([gap, -gap], 1)


def test_less_contrast_brightens_a_dark_image():
    x = 0.2 * torch.rand(6, 3, 4, 4, generator=seeded())
    x_adv = robustcls.attack(Brightness(), x, torch.zeros(6).long(), ThreatModel("l2", 1), "contrast(steps=200)")
    torch.testing.assert_close(x_adv.mean((1, 2, 3)), torch.full((6,), 0.3), rtol=0, atol=0.003)
    towards = (x_adv - x) / (0.5 - x)
    torch.testing.assert_close(towards, towards[:, :1, :1, :1].expand_as(x))
    darker = robustcls.attack(Brightness(), x, torch.zeros(6).long(), ThreatModel("l2", 1), "contrast(target=0.1)")
    assert torch.equal(darker, x)


def test_blur_smooths():
    x = torch.rand(6, 1, 8, 8, generator=seeded())
    y = torch.zeros(6).long()
    wide, narrow = (
        robustcls.attack(Roughness(), x, y, ThreatModel("linf", 1), f"blur(max_sigma={sigma})") for sigma in (4, 0.1)
    )
    assert (Roughness()(wide).argmax(1) == 1).all()
    torch.testing.assert_close(wide.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=0, atol=0.1)
    assert torch.equal(narrow, x)


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (1, 3, 8, 8), (4, 3, 8, 12)])
@pytest.mark.parametrize("options", ["", "draws=60"])
def test_a_turn_moves_the_bright_corner(shape, options):
    x = torch.zeros(shape)
    x[:, :, :2, :2] = 1
    y = torch.zeros(len(x)).long()
    x_adv = robustcls.attack(Quarter(), x, y, BOX, f"spatial({options})")
    assert torch.equal(x_adv, x), "a rotation of thirty degrees is not enough"
    options = f"max_rotation=180, {options}"
    x_adv = robustcls.attack(Quarter(), x, y, BOX, f"spatial({options})")
    assert (Quarter()(x_adv).argmax(1) == 1).all()


def test_salt_and_pepper_is_black_and_white():
    x = 0.2 * torch.rand(6, 3, 4, 4, generator=seeded())
    x_adv = robustcls.attack(Brightness(), x, torch.zeros(6).long(), ThreatModel("l1", 1), "salt_and_pepper(steps=200)")
    assert (Brightness()(x_adv).argmax(1) == 1).all()
    changed = x_adv != x
    assert (x_adv[changed] % 1 == 0).all()
    assert torch.equal(changed.any(1), changed.all(1)), "a changed pixel changes in all channels"


@pytest.mark.parametrize("spec", ["fmn", "cw(steps=5)", "boundary(steps=5)", "hopskipjump(steps=1)", "blur", "spatial"])
def test_a_sample_without_an_adversarial_image_is_returned_unchanged(spec):
    """An evaluation then records no distance for this sample, and the other samples still get their examples."""

    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(2, 3, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.net(x)
            return logits if self.yields else logits * 0 + torch.tensor([1.0, 0.0])

    model, x = Stubborn(), near_grey(4)
    model.yields = False
    y = torch.zeros(4).long()
    assert torch.equal(robustcls.attack(model, x, y, BOX if spec == "spatial" else first_of(spec), spec), x)


def first_of(spec: str) -> ThreatModel:
    return ThreatModel("l2", 1) if spec.startswith(("cw", "boundary")) else ThreatModel("linf", 0.1)


@pytest.mark.parametrize("spec", ["boundary(steps=200)", "hopskipjump(steps=2)"])
def test_one_sample_without_a_start_does_not_stop_the_others(spec, monkeypatch):
    find = _foolbox.find_starts

    def find_fewer(*arguments, **options):
        starts = find(*arguments, **options)
        assert starts.found.all()
        starts.distance[1] = torch.inf
        return starts

    x, y = 0.2 * torch.rand(5, 3, 4, 4, generator=seeded()), torch.zeros(5).long()
    monkeypatch.setattr(_foolbox, "find_starts", find_fewer)
    x_adv = robustcls.attack(Brightness(), x, y, ThreatModel("l2", 1), spec)
    assert torch.equal(x_adv[1], x[1])
    assert Brightness()(x_adv).argmax(1).tolist() == [1, 0, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "norm"), [("cw(confidence=0.7)", "l2"), ("ead(confidence=0.7)", "l1")])
def test_a_black_image_is_not_returned_as_an_example(spec, norm):
    """foolbox returns a black image if no image reaches the confidence, and the black image may be adversarial."""
    x = 0.6 + 0.2 * torch.rand(3, 3, 4, 4, generator=seeded())
    x_adv = robustcls.attack(Brightness(), x, torch.ones(3).long(), ThreatModel(norm, 1), spec)
    assert torch.equal(x_adv, x)


@torch.no_grad()
def test_the_evaluation_counts_distances_and_what_is_censored(trained):
    net, x, y = trained
    found = robustcls.evaluate(net, x, y, ThreatModel("l2", 0.6), attacks=["ddn", "contrast"], precision="fp32")
    nearest, greyed = found.attacks
    assert nearest.error == greyed.error == ""
    assert nearest.censored == 0
    assert nearest.median_nearest == pytest.approx(0.62, abs=0.1)
    assert 0 < nearest.broken < 30
    assert greyed.broken == 0
    assert greyed.median_nearest > 1


@pytest.mark.parametrize("name", ALL)
def test_called_alone_it_leaves_model_and_generators(trained, name, recwarn):
    """The plug-in is called without `robustcls.attack`, on one image and on an empty batch."""
    net, x, y = trained
    model = nn.Sequential(net).train()
    threat = BOX if name == "spatial" else ThreatModel("l1" if name == "ead" else "l2", 1)
    options = {key: 5 for key in ("steps", "initial_evaluations") if key in plugins.resolved("attack", name)}
    before, handlers = torch.get_rng_state(), list(logging.root.handlers)
    generator = seeded()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x_adv = plugins.load("attack", name)(model, x[:1], y[:1], threat, generator=generator, **options)
        none = plugins.load("attack", name)(model, x[:0], y[:0], threat, generator=generator, **options)
    assert x_adv.shape == x[:1].shape
    assert none.shape == x[:0].shape
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert logging.root.handlers == handlers
    if name not in OWN:  # our own attacks draw nothing here
        assert not torch.equal(generator.get_state(), seeded().get_state()), "the next batch draws other numbers"


@pytest.mark.parametrize(
    ("spec", "threat", "message"),
    [
        ("fmn(steps=0)", "l2:1", "fmn(steps=0): give more than 0"),
        ("ddn", "linf:0.1", "ddn measures l2, not linf: judge it with `norm=l2`"),
        ("ddn(init_epsilon=0)", "l2:1", "ddn(init_epsilon=0.0): give more than 0"),
        ("deepfool", "l1:1", "deepfool measures linf or l2, not l1: judge it with `norm=linf`"),
        ("deepfool(candidates=1)", "l2:1", "give 2 or more"),
        ("cw", "l1:1", "cw measures l2, not l1"),
        ("cw(confidence=-1)", "l2:1", "give 0 or more"),
        ("ead", "l2:1", "ead measures l1, not l2"),
        ("ead(regularization=0)", "l1:1", "give more than 0"),
        ("boundary", "linf:0.1", "boundary measures l2, not linf"),
        ("hopskipjump", "l1:1", "hopskipjump measures linf or l2, not l1"),
        ("hopskipjump(max_evaluations=0)", "l2:1", "give more than 0"),
        ("spatial", "linf:8/255", "judge it with `norm=linf` and `eps=1`"),
        ("spatial", "l2:5", "judge it with `norm=linf` and `eps=1`"),
        ("spatial(draws=0)", "linf:1", "give more than 0"),
        ("salt_and_pepper(steps=-1)", "l2:1", "give more than 0"),
        ("blur(max_sigma=0)", "l2:1", "give more than 0"),
        ("contrast(target=2)", "l2:1", "give a grey value from 0 to 1"),
    ],
)
def test_wrong_input_is_named_in_one_line(spec, threat, message):
    with pytest.raises(InputError) as caught:
        robustcls.attack(linear(3, 3, 4, 4), near_grey(2), torch.zeros(2).long(), ThreatModel.parse(threat), spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
