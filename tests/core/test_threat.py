import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel, parse_eps
from tests.helpers.seeds import seeded

NORMS = ("linf", "l2", "l1")
SHAPES = ((1, 4, 4), (3, 8, 8), (3, 32, 32))
RADII = {"linf": (1 / 255, 8 / 255, 0.3), "l2": (0.1, 0.5, 3.0), "l1": (0.05, 2.0, 12.0)}
CASES = [(norm, eps, shape) for norm in NORMS for eps in RADII[norm] for shape in SHAPES]


def norm_of(delta: Tensor, norm: str) -> Tensor:
    """Return the norms in double precision, computed with other functions than in the package."""
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(delta.double().flatten(1), ord=order, dim=1)


@pytest.mark.parametrize(("norm", "eps", "shape"), CASES)
def test_a_projection_is_inside_ball_and_box_and_stays_where_it_is(norm, eps, shape):
    threat, draw = ThreatModel(norm, eps), seeded()
    for scale in (0.01, 0.1, 1.0, 10.0):
        for low, high in ((0, 1), (0.3, 0.7)):  # the box cuts off much, or hardly anything
            x = low + (high - low) * torch.rand(16, *shape, generator=draw)
            x_adv = threat.project(x + scale * torch.randn(x.shape, generator=draw), x)
            assert norm_of(x_adv - x, norm).max() <= eps + 1e-6
            assert x_adv.min() >= 0
            assert x_adv.max() <= 1
            assert x_adv.dtype == torch.float32
            torch.testing.assert_close(threat.project(x_adv, x), x_adv, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 3.0), ("l2", 10.0), ("l1", 12.0), ("l1", 60.0)])
def test_large_images_stay_inside_the_ball(norm, eps):
    """Sums over 150,528 pixels in float32 would not meet the tolerance."""
    threat, x = ThreatModel(norm, eps), torch.full((4, 3, 224, 224), 0.6)
    noise = torch.randn(x.shape, generator=seeded())
    for x_adv in (
        threat.project(x + 0.02 * noise, x),
        threat.project(x + 0.001 * noise.sign(), x),
        threat.random_start(x, seeded()),
    ):
        excess = norm_of(x_adv - x, norm) - eps
        assert excess.max() <= 1e-6
        torch.testing.assert_close(threat.distance(x_adv, x).double(), excess + eps, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_leaves_what_is_inside(norm):
    x = torch.rand(8, 3, 8, 8, generator=seeded())
    inside = ThreatModel(norm, 0.1).random_start(x, seeded(1))
    torch.testing.assert_close(ThreatModel(norm, 0.2).project(inside, x), inside, rtol=0, atol=2e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_is_the_nearest_point_of_the_ball(norm):
    """Variational inequality: <delta - p, q - p> <= 0 for every q of the ball. At 0.5, the box plays no part."""
    eps = {"linf": 0.01, "l2": 0.1, "l1": 0.4}[norm]
    x, draw = torch.full((32, 2, 5, 5), 0.5), seeded()
    delta = 0.05 * torch.randn(x.shape, generator=draw)
    p = ThreatModel(norm, eps).project(x + delta, x) - x
    vertices = torch.randn(200, *x.shape[1:], generator=draw)
    vertices[:50] = torch.eye(50).view(50, 2, 5, 5)
    q = vertices * (eps / norm_of(vertices, norm)).float().view(-1, 1, 1, 1)
    product = ((delta - p)[:, None] * (q[None] - p[:, None])).flatten(2).sum(2)
    assert norm_of(delta, norm).min() > eps, "nothing would be projected"
    assert product.max() <= 1e-4 * eps


def bisected(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return the l1 projection of one delta onto ball and box, with a threshold found by bisection in double precision."""
    delta, x = delta.double(), x.double()
    room = torch.where(delta > 0, 1 - x, x)

    def fallen(threshold: float) -> Tensor:
        return torch.minimum((delta.abs() - threshold).clamp_min(0), room)

    low, high = 0.0, delta.abs().max().item()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if fallen(middle).sum() <= eps else (middle, high)
    return delta.sign() * fallen(high if fallen(0.0).sum() > eps else 0.0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    pixels=st.sampled_from([1, 2, 7, 64, 300]),
    eps=st.floats(1e-3, 100),
    scale=st.floats(1e-3, 30),
    power=st.sampled_from([1, 3]),
    levels=st.sampled_from([1, 4, 255]),
)
@example(seed=0, pixels=7, eps=1.0, scale=1e4, power=1, levels=1)
def test_the_l1_projection_equals_bisection(seed, pixels, eps, scale, power, levels):
    """This includes heavy tails, ties, and pixels at the edge of the box."""
    draw = seeded(seed)
    x = (torch.rand(5, 1, 1, pixels, generator=draw) * levels).round() / levels
    x_adv = x + scale * torch.randn(x.shape, generator=draw) ** power
    found = ThreatModel("l1", eps).project(x_adv, x) - x
    for row, image, moved in zip(x_adv - x, x, found, strict=True):
        torch.testing.assert_close(moved.double(), bisected(row, image, eps), rtol=0, atol=1e-6 + pixels * 2**-24)


def test_the_l1_projection_is_the_nearest_point_of_ball_and_box():
    """Variational inequality: <delta - p, q - p> <= 0 for every q in ball and box."""
    eps, draw = 1.5, seeded()
    x = torch.rand(32, 2, 5, 5, generator=draw)
    x[:4], x[4:8], threat = 0, 1, ThreatModel("l1", eps)
    delta = 0.8 * torch.randn(x.shape, generator=draw)
    p = threat.project(x + delta, x) - x
    for _ in range(50):
        q = threat.random_start(x, draw) - x
        assert ((delta - p) * (q - p)).flatten(1).sum(1).max() <= 1e-4
    clipped = (x + delta).clamp(0, 1) - x
    spent = norm_of(p, "l1")
    torch.testing.assert_close(spent, norm_of(clipped, "l1").clamp_max(eps), rtol=1e-5, atol=0)


def test_the_l1_projection_spends_eps_where_the_box_leaves_room():
    """Changes that would leave the box use up nothing, so all of eps goes to the one pixel that can move."""
    x = torch.tensor([[1.0, 0.0, 0.5], [1.0, 0.0, 1.0]]).view(2, 1, 1, 3)
    x_adv = x + torch.tensor([3.0, -3.0, 0.4]).view(1, 1, 1, 3)
    expected = torch.tensor([[1.0, 0.0, 0.7], [1.0, 0.0, 1.0]]).view(2, 1, 1, 3)
    torch.testing.assert_close(ThreatModel("l1", 0.2).project(x_adv, x), expected, rtol=0, atol=1e-6)
    assert torch.equal(ThreatModel("l1", 0.0).project(x_adv, x), x)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.0)])
def test_the_other_projections_are_onto_the_ball_and_then_onto_the_box(norm, eps):
    x, draw = torch.rand(8, 3, 8, 8, generator=seeded()), seeded(1)
    x_adv = x + 0.3 * torch.randn(x.shape, generator=draw)
    delta = x_adv - x
    shrink = (eps * (1 - 2e-7) / norm_of(delta, "l2").float()).clamp_max(1).view(-1, 1, 1, 1)
    clipped = delta.clamp(-eps, eps) if norm == "linf" else delta * shrink
    torch.testing.assert_close(
        ThreatModel(norm, eps).project(x_adv, x), (x + clipped).clamp(0, 1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_is_inside_and_uniform(norm):
    """For a uniform point in a ball of dimension D, (radius / eps) ** D is uniform in [0, 1]."""
    eps = {"linf": 0.1, "l2": 0.2, "l1": 0.3}[norm]
    x = torch.full((4000, 1, 2, 2), 0.5)
    start = ThreatModel(norm, eps).random_start(x, seeded())
    radius = norm_of(start - x, norm) / eps
    assert radius.max() <= 1 + 1e-6
    share = (radius**4).sort().values
    uniform = torch.linspace(0, 1, len(share), dtype=torch.float64)
    assert (share - uniform).abs().max() < 1.63 / len(share) ** 0.5, "Kolmogorov-Smirnov at the 1% level"
    assert (start - x).mean(0).abs().max() < 0.01 * 0.5
    assert torch.equal(start, ThreatModel(norm, eps).random_start(x, seeded()))
    assert not torch.equal(start, ThreatModel(norm, eps).random_start(x, seeded(1)))


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_at_the_edge_of_the_box_is_inside_it(norm):
    start = ThreatModel(norm, 0.5).random_start(torch.ones(8, 1, 4, 4), seeded())
    assert start.max() <= 1
    assert start.min() < 1


def test_steepest_is_the_maximiser_over_the_unit_ball():
    grad = torch.randn(8, 3, 6, 6, generator=seeded())
    product = {n: (grad * ThreatModel(n, 1).steepest(grad)).flatten(1).sum(1) for n in ("linf", "l2")}
    torch.testing.assert_close(product["linf"], grad.abs().flatten(1).sum(1))  # the dual norms
    torch.testing.assert_close(product["l2"], grad.flatten(1).pow(2).sum(1).sqrt())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1.0, 1e8])
def test_steepest_has_norm_one_whatever_the_size_of_the_gradient(norm, scale):
    grad = scale * torch.randn(8, 3, 32, 32, generator=seeded())
    step = ThreatModel(norm, 1).steepest(grad)
    torch.testing.assert_close(norm_of(step, norm), torch.ones(8, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (step * grad >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_of_no_gradient_is_no_step(norm):
    grad = torch.randn(2, 1, 4, 4, generator=seeded())
    grad[0] = 0
    step = ThreatModel(norm, 1).steepest(grad)
    assert torch.equal(step[0], torch.zeros(1, 4, 4))
    assert step[1].abs().sum() > 0


def test_steepest_in_l1_moves_the_largest_hundredth():
    grad = torch.randn(4, 3, 20, 20, generator=seeded())
    step = ThreatModel("l1", 1).steepest(grad).flatten(1)
    size = grad.flatten(1).abs()
    assert ((step != 0).sum(1) == 12).all()
    assert (size[step != 0].view(4, 12).min(1).values >= size.where(step == 0, 0).amax(1)).all()


def test_distance():
    x, x_adv = torch.zeros(2, 1, 1, 3), torch.tensor([[0.3, -0.4, 0.0], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    for norm, expected in (("linf", 0.4), ("l2", 0.5), ("l1", 0.7)):
        torch.testing.assert_close(ThreatModel(norm, 1).distance(x_adv, x), torch.tensor([expected, 0.0]))


@pytest.mark.parametrize(
    ("text", "eps"), [("8/255", 8 / 255), (" 0.03 ", 0.03), ("0", 0.0), ("1e-2", 0.01), (0.5, 0.5), (1, 1.0)]
)
def test_radii(text, eps):
    assert parse_eps(text) == eps
    assert ThreatModel("l2", text).eps == eps


@pytest.mark.parametrize("text", ["abc", "0/0", "-1", "-8/255", "nan", "inf", "", "1/0", "8//255", "1e999", None, -0.1])
def test_what_is_no_radius(text):
    with pytest.raises(InputError, match="is not a radius") as caught:
        parse_eps(text)
    assert "8/255" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        ThreatModel("linf", text)


def test_parse():
    assert ThreatModel.parse("linf:8/255") == ThreatModel("linf", 8 / 255)
    assert ThreatModel.parse("l2: 0.5 ") == ThreatModel("l2", 0.5)
    with pytest.raises(InputError, match="no radius: write it as linf:8/255"):
        ThreatModel.parse("linf")
    with pytest.raises(InputError, match="did you mean 'linf'"):
        ThreatModel.parse("lInf:0.1")
    with pytest.raises(InputError, match="there are l0, l1, l2, linf"):
        ThreatModel("spatial", 0.1)


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [
        ("linf", 8 / 255, "8/255"),
        ("linf", 1 / 255, "1/255"),
        ("linf", 0.3, "0.3"),
        ("linf", 0.0, "0"),
        ("linf", 1.0, "1"),
        ("linf", 8.5 / 255, "0.0333333"),
        ("l2", 128 / 255, "0.501961"),
        ("l2", 0.5, "0.5"),
        ("l1", 12.0, "12"),
    ],
)
def test_radii_in_words(norm, eps, text):
    threat = ThreatModel(norm, eps)
    assert threat.eps_text == text
    assert str(threat) == f"{norm}:{text}"
    assert ThreatModel.parse(str(threat)).eps == pytest.approx(eps, rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_entries_that_are_not_finite_count_as_zero(norm):
    grad = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    odd = grad.clone()
    for n, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        odd[n, 0, n] = value
        grad[n, 0, n] = 0
    threat = ThreatModel(norm, 1)
    assert torch.equal(threat.steepest(odd), threat.steepest(grad))
    assert (threat.steepest(torch.full_like(grad, float("nan"))) == 0).all()


@pytest.mark.parametrize(
    ("eps", "hint"),
    [
        (8, "did you mean 8/255?"),
        ("8", "did you mean 8/255?"),
        (255, "255/255"),
        (1.5, "such as 8/255"),
        (2000, "8/255"),
    ],
)
def test_a_radius_in_grey_levels_is_refused(eps, hint):
    for make in (lambda: ThreatModel("linf", eps), lambda: ThreatModel.parse(f"linf:{eps}")):
        with pytest.raises(InputError, match="pixels are in") as caught:
            make()
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


def test_one_is_the_whole_box_and_no_ball_of_linf_is_larger():
    assert ThreatModel("linf", 1).is_whole_box
    assert ThreatModel("linf", 0.6).at(1.2) == ThreatModel("linf", 1)
    assert ThreatModel("linf", 0.6).at(0.3) == ThreatModel("linf", 0.3)
    assert ThreatModel("l2", 0.6).at(1.2) == ThreatModel("l2", 1.2)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 128), ("l1", 3073), ("l1", 5000)])
def test_a_radius_beyond_the_farthest_images_is_refused(norm, eps):
    threat = ThreatModel(norm, eps)
    with pytest.raises(InputError, match="images of 3 x 32 x 32 are at most") as caught:
        threat.check_fits((3, 32, 32))
    assert ("did you mean 128/255?" in str(caught.value)) == (eps == 128)
    threat.check_fits((3, 224, 224))
    for norm, eps in (("l2", 3 * 32 * 32), ("l1", 3 * 32 * 32)):
        ThreatModel(norm, eps**0.5 if norm == "l2" else eps).check_fits((3, 32, 32))


def test_a_step_in_grey_levels_is_refused():
    for norm, step, bad in (("linf", 2.0, True), ("linf", 1.0, False), ("linf", None, False), ("l2", 2.0, False)):
        options = {"steps": 10, "step_size": step}
        if not bad:
            ThreatModel(norm, 0.1).check_options("pgd", options)
            continue
        with pytest.raises(InputError, match=r"pgd\(step_size=2\): step_size 2 is too large.*did you mean 2/255\?"):
            ThreatModel(norm, 0.1).check_options("pgd(step_size=2)", options)


def test_a_ball_that_reaches_grey_from_every_image():
    shape = (3, 8, 8)
    for norm, half in (("linf", 0.5), ("l2", (192**0.5) / 2), ("l1", 96)):
        assert ThreatModel(norm, half * 1.001).reaches_grey(shape)
        assert not ThreatModel(norm, half * 0.999).reaches_grey(shape)
        grey, x = torch.full((1, *shape), 0.5), (torch.rand(1, *shape, generator=seeded()) > 0.5).float()
        assert ThreatModel(norm, half * 1.001).distance(grey, x).item() <= half * 1.001


@pytest.mark.parametrize("norm", NORMS)
def test_each_sample_may_have_a_radius_of_its_own(norm):
    x = torch.rand(5, 3, 8, 8, generator=seeded())
    far = x + torch.randn(x.shape, generator=seeded(1))
    radii = torch.tensor([0.0, 0.1, 0.3, 0.7, 0.9])
    found = ThreatModel(norm, 1.0).project(far, x, radii)
    for i, radius in enumerate(radii.tolist()):
        alone = ThreatModel(norm, radius).project(far[i : i + 1], x[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_dual_norm_is_what_a_linear_loss_gains_in_the_ball(norm):
    grad = torch.randn(4, 3, 8, 8, generator=seeded())
    order = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    expected = torch.linalg.vector_norm(grad.double().flatten(1), ord=order, dim=1).float()
    torch.testing.assert_close(ThreatModel(norm, 1.0).dual(grad), expected)
    if norm != "l1":  # in l1, `steepest` moves more than the one pixel that gains most
        gained = (grad * ThreatModel(norm, 1.0).steepest(grad)).flatten(1).sum(1)
        torch.testing.assert_close(gained, expected)


def nearest_by_brute_force(delta: Tensor, x: Tensor, eps: int) -> float:
    """Return the squared distance from x + delta (D values each) to the nearest point of the box with eps changed values; all
    choices of values are tried."""
    best = math.inf
    for kept in itertools.combinations(range(len(x)), eps):
        point = x.clone()
        point[list(kept)] = (x + delta)[list(kept)].clamp(0, 1)
        best = min(best, (x + delta - point).square().sum().item())
    return best


@pytest.mark.parametrize("eps", [0, 1, 3, 6, 8])
def test_an_l0_projection_is_the_nearest_of_all_choices_of_values(eps):
    draw = seeded()
    x = torch.rand(40, 2, 2, 2, generator=draw)
    delta = torch.randn(
        x.shape, generator=draw
    )  # some values leave the box, so that the largest change is not always the one to keep
    delta[:5] = 0
    p = ThreatModel("l0", eps).project(x + delta, x)
    assert ((p != x).flatten(1).sum(1) <= eps).all()
    assert p.min() >= 0
    assert p.max() <= 1
    way = (x + delta - p).flatten(1).square().sum(1)
    exact = [nearest_by_brute_force(d, c, eps) for d, c in zip(delta.flatten(1), x.flatten(1), strict=True)]
    torch.testing.assert_close(way, torch.tensor(exact), rtol=1e-5, atol=1e-6)


def test_an_l0_projection_takes_a_radius_of_each_sample_and_leaves_what_is_inside():
    x = torch.full((4, 1, 3, 3), 0.5)
    x_adv = x + 0.01 * torch.arange(1, 10).view(1, 1, 3, 3)
    p = ThreatModel("l0", 0).project(x_adv, x, torch.tensor([0.0, 1.0, 4.0, 9.0]))
    assert ThreatModel("l0", 1).distance(p, x).tolist() == [0, 1, 4, 9]
    assert torch.equal(p[3], x_adv[3])
    assert (p[1] != x[1]).flatten().nonzero().tolist() == [[8]], "the largest change is kept"


def test_l0_counts_each_colour_and_no_half_values():
    threat, x = ThreatModel("l0", 20), torch.full((2, 3, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[0, :, 1, 1] = 0.6
    x_adv[1, 2, 0, 0] = 0.5 + 1e-7
    assert threat.distance(x_adv, x).tolist() == [3, 1]
    assert (threat.eps_text, str(threat.at(7.9)), str(ThreatModel.parse("l0:20"))) == ("20", "l0:7", "l0:20")
    for eps in (0.5, 8 / 255, "3/2"):
        with pytest.raises(InputError, match="is not a whole number: l0 counts the values that may change"):
            ThreatModel("l0", eps)
    with pytest.raises(InputError, match="l0 eps 49 is too large: pixels are in .* at most 48 apart: give a smaller"):
        ThreatModel("l0", 49).check_fits((3, 4, 4))
    two = torch.zeros(4, 4, dtype=torch.bool)
    two[0, :2] = True
    ThreatModel("l0", 6, two).check_fits((3, 4, 4))
    with pytest.raises(InputError, match="l0 eps 7 is too large: .* at most 6 apart in mask"):
        ThreatModel("l0", 7, two).check_fits((3, 4, 4))
    ThreatModel("l2", 6, two).check_fits((3, 4, 4))
    assert ThreatModel("l0", 48).reaches_grey((3, 4, 4))
    assert not ThreatModel("l0", 47).reaches_grey((3, 4, 4))
    start = threat.random_start(x, seeded())
    assert threat.distance(start, x).tolist() == [20, 20]
    assert not torch.equal(start[0] != x[0], start[1] != x[1])
    for refused in (threat.steepest, threat.dual):
        with pytest.raises(InputError, match="l0 has no "):
            refused(x)


def test_between_is_the_share_of_the_distance_in_every_norm():
    draw = seeded()
    x, x_adv = torch.rand(2, 8, 3, 5, 5, generator=draw)
    share = torch.linspace(0, 1, 8)
    for norm in (*NORMS, "l0"):
        threat = ThreatModel(norm, 1)
        wanted = share * threat.distance(x_adv, x)
        found = threat.distance(threat.between(x, x_adv, share), x)
        torch.testing.assert_close(found, wanted.floor() if norm == "l0" else wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ThreatModel("l2", 1).between(x, x_adv, torch.ones(8)), x_adv)
