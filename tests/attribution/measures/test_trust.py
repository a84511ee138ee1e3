"""The measures of maps distinguish a method that explains the model from one that does not."""

import json
import math
import re
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import robustcls
from robustcls.attribution import collapse
from robustcls.attribution.measures.sanity import benign_noise
from robustcls.attribution.measures.trust import make_maps, measure, measure_all, select_samples
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.measures.explanations import section_sanity as sanity
from robustcls.results.records import MethodMeasures, Spread

HERE = __name__


def random_map(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """A map that does not depend on the model: noise from the global generator, the same for the same seed."""
    return torch.randn(len(x), *x.shape[2:])


def fresh_map(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """A map that does not depend on the model and differs in every call."""
    return torch.randn(len(x), *x.shape[2:], generator=FRESH)


FRESH = torch.Generator().manual_seed(9)


def edges(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """A map that shows the image and does not depend on the model."""
    return x.mean(1)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()


@pytest.fixture(scope="module")
def model(digits: tuple[Tensor, Tensor]) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    x, y = digits[0][:1200], digits[1][:1200]
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def attacked(model: nn.Module, digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    x, y = digits[0][1200:1280], digits[1][1200:1280]
    return x, y, robustcls.attack(model, x, y, ThreatModel("linf", 0.12), "pgd(steps=10)")


def checks(record: MethodMeasures) -> dict[str, str]:
    return {check.id: check.status for check in record.checks}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "kernel_shap(samples=40, segments=16)"])
def test_a_method_that_explains_the_model_passes(method: str, model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, _ = attacked
    found = checks(robustcls.explain_metrics(model, x[:40], y[:40], method))
    assert {found[name] for name in ("repeatability", "parameter_randomisation", "insertion", "deletion")} == {"pass"}


@pytest.mark.parametrize(
    ("method", "failed"),
    [
        ("random_map", {"parameter_randomisation", "random_logit", "insertion", "deletion"}),
        ("fresh_map", {"repeatability", "parameter_randomisation", "random_logit", "insertion", "deletion"}),
        ("edges", {"parameter_randomisation", "random_logit"}),
    ],
)
def test_maps_that_say_nothing_of_the_model_fail_by_name(
    method: str, failed: set[str], model: nn.Module, attacked: tuple[Tensor, ...]
) -> None:
    x, y, x_adv = attacked
    found = checks(robustcls.explain_metrics(model, x, y, f"{HERE}:{method}", adversarial=x_adv))
    assert {name for name, status in found.items() if status == "fail"} >= failed
    assert found["completeness"] == "not_run"


@pytest.mark.slow
def test_the_report_of_a_run_says_so(model: nn.Module, attacked: tuple[Tensor, ...], tmp_path) -> None:
    x, y, x_adv = attacked
    evaluation = robustcls.evaluate(model, x, y, ThreatModel("linf", 0.12), attacks=["fgsm"])
    samples = select_samples(model, x, y, x_adv)
    method = f"{HERE}:random_map"
    maps = {method: make_maps(model, samples.x, samples.y, samples.x_adv, method)}
    evaluation.explanations = measure_all(model, samples, maps, "pgd(steps=10)")
    robustcls.report(evaluation, tmp_path / "report.html")
    page = re.sub("<[^>]*>", "", (tmp_path / "report.html").read_text(encoding="utf-8"))
    (sentence,) = re.findall(f"{method} fails ([^:]*):", " ".join(page.split()))
    assert set(sentence.replace(" ", "").split(",")) >= {"insertion", "deletion", "parameter_randomisation"}
    robustcls.Evaluation.from_json(evaluation.to_json())


def test_likeness_is_split_by_label_and_beside_its_controls(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, x_adv = attacked
    record = robustcls.explain_metrics(model, x, y, "integrated_gradients", adversarial=x_adv, quality_n=4)
    with torch.no_grad():
        right, wrong = model(x).argmax(1) == y, model(x_adv).argmax(1) != y
    groups = {(like.against, like.label): like for like in record.likeness}
    assert list(groups) == [
        ("adversarial", "kept"),
        ("adversarial", "flipped"),
        ("benign_noise", ""),
        ("random_map", ""),
    ]
    assert groups["adversarial", "kept"].n == int((right & ~wrong).sum())
    assert groups["adversarial", "flipped"].n == int((right & wrong).sum()) > 5
    assert groups["benign_noise", ""].n == groups["random_map", ""].n == int(right.sum())
    medians = [like.measures["spearman"].median for like in record.likeness]
    assert min(medians[:3]) > 0.5
    assert abs(medians[3]) < 0.2
    assert record.quality["gini"].n == 4
    clean = collapse(robustcls.explain(model, x, y, "integrated_gradients"))
    adversarial = collapse(robustcls.explain(model, x_adv, y, "integrated_gradients"))
    from scipy.stats import spearmanr

    rows = (right & wrong).nonzero()[:, 0].tolist()
    by_hand = [spearmanr(clean[i].flatten(), adversarial[i].flatten()).statistic for i in rows]
    assert groups["adversarial", "flipped"].measures["spearman"].median == pytest.approx(
        Spread.of(by_hand).median, abs=1e-6
    )


def test_noise_has_the_norms_of_the_attack_at_other_places(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, x_adv = attacked
    inner = x * 0.7 + 0.15  # so that the noise, or its negative, always stays in [0, 1]
    samples = select_samples(model, inner, y, inner + (x_adv - x))
    made, again = (benign_noise(samples.x, samples.x_adv, 0) for _ in range(2))
    noise, delta = made - samples.x, samples.x_adv - samples.x
    for norm in (1, 2, math.inf):
        lengths = [torch.linalg.vector_norm(change.flatten(1), norm, 1) for change in (noise, delta)]
        torch.testing.assert_close(*lengths, rtol=1e-4, atol=1e-6)
    assert not torch.equal(noise, delta)
    assert torch.equal(made, again)


def test_samples_that_are_wrong_or_did_not_move_are_left_out(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, x_adv = (tensor[:10].clone() for tensor in attacked)
    y[3] = (y[3] + 1) % 10
    x_adv[5] = x[5]
    samples = select_samples(model, x, y, x_adv)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).tolist()
    assert samples.rows.tolist() == [i for i in range(10) if right[i] and i != 5]
    assert len(select_samples(model, x, y, x, attacked=False).x) == sum(right)
    with pytest.raises(InputError, match="nothing to measure"):
        robustcls.explain_metrics(model, x[3:4], y[3:4])
    with pytest.raises(InputError, match="adversarial images are"):
        robustcls.explain_metrics(model, x, y, adversarial=x_adv[:3])


@pytest.mark.slow
def test_incomplete_maps_are_marked_and_complete_ones_are_not(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, _ = attacked
    records = {
        name: robustcls.explain_metrics(model, x, y, name, quality_n=8)
        for name in ("integrated_gradients(steps=1)", "integrated_gradients(steps=400)", "deeplift")
    }
    rough, fine, exact = (checks(record)["completeness"] for record in records.values())
    assert (rough, fine, exact) == ("warn", "pass", "pass")
    assert records["deeplift"].quality["completeness_gap"].q3 < 1e-4


@pytest.mark.slow
def test_the_model_and_the_random_streams_are_left_alone(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, x_adv = attacked
    model.train()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    samples = select_samples(model, x, y, x_adv)
    maps = make_maps(model, samples.x, samples.y, samples.x_adv, "smoothgrad(samples=2)")
    first, second = (measure(model, samples, "smoothgrad(samples=2)", maps, quality_n=3) for _ in range(2))
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_a_spread_is_of_finite_values_alone() -> None:
    assert Spread.of([]) == Spread(0)
    assert Spread.of([math.nan, 2.0]) == Spread(1, 2.0, 2.0, 2.0)
    assert Spread.of([1, 2, 3, 4, math.inf]) == Spread(4, 2.5, 1.75, 3.25)
    assert json.loads(json.dumps(vars(Spread.of([1, 2])))) == {"n": 2, "median": 1.5, "q1": 1.25, "q3": 1.75}


def test_targets_are_taken_as_explain_takes_them(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x = attacked[0][:12]
    with torch.no_grad():
        predicted = model(x).argmax(1)
    expected = robustcls.explain_metrics(model, x, predicted, "saliency", quality_n=3)
    for target in (None, predicted.tolist()):
        found = robustcls.explain_metrics(model, x, target, "saliency", quality_n=3)
        assert (found.quality, found.checks, found.likeness) == (expected.quality, expected.checks, expected.likeness)
    one = robustcls.explain_metrics(model, x, int(predicted[0]), "saliency", quality_n=50)
    assert one.quality["gini"].n == int((predicted == predicted[0]).sum())
    for wrong, message in ((10, "beyond the model's 10 classes"), (-1, "negative"), ([0, 1], "one integer per image")):
        with pytest.raises(InputError, match=message):
            robustcls.explain_metrics(model, x, wrong, "saliency")
    with pytest.raises(InputError, match="quality_n 0 is not positive"):
        robustcls.explain_metrics(model, x, None, "saliency", quality_n=0)


def test_without_an_attack_nothing_is_said_of_one(model: nn.Module, attacked: tuple[Tensor, ...]) -> None:
    x, y, _ = attacked
    record = robustcls.explain_metrics(model, x[:9], None, "saliency", quality_n=3)
    assert [like.against for like in record.likeness] == ["random_map"]
    with pytest.raises(InputError, match="nothing to measure"):  # an attack that changed nothing
        robustcls.explain_metrics(model, x[:9], y[:9], "saliency", adversarial=x[:9].clone())


class Rooted(nn.Module):
    """The model applied to the square roots of the pixels, whose gradient is infinite at black pixels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.pow(0.5))


@pytest.mark.parametrize(
    "method",
    [
        "saliency",
        "input_x_gradient",
        "integrated_gradients(steps=4)",
        "smoothgrad(samples=3)",
        "gradient_shap(samples=4)",
    ],
)
def test_values_that_are_not_finite_count_as_0_and_are_said(method: str, model: nn.Module, attacked) -> None:
    x, y = attacked[0][:4], attacked[1][:4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert robustcls.explain(model, x, y, method).isfinite().all()
    with pytest.warns(
        UserWarning, match=rf"{re.escape(method)}: 4 of 4 maps had values that are not finite, taken as 0"
    ):
        maps = robustcls.explain(Rooted(model), x, y, method, batch_size=3)
    assert maps.isfinite().all()
    assert (maps != 0).any()


def test_a_record_of_maps_that_are_not_finite_says_just_that(model: nn.Module, attacked, recwarn) -> None:
    x, y = attacked[0][:20], attacked[1][:20]
    rooted = Rooted(model)
    with torch.no_grad():
        y = rooted(x).argmax(1)
    found = robustcls.explain_metrics(rooted, x, y, "saliency", quality_n=4)
    assert "20 of 20 maps had values that are not finite, taken as 0" in found.note
    assert checks(found)["finite_maps"] == "fail"
    assert checks(found)["repeatability"] == "pass"
    assert checks(robustcls.explain_metrics(model, *attacked[:2], "saliency", quality_n=4))["finite_maps"] == "pass"
    failing = sanity._failing(found)
    assert "finite_maps" in failing
    assert "its maps contain values that are not finite" in failing
    assert "same seed" not in failing
