"""An exported file beside its original: honest files, and files with masked gradients."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen, input_gradient
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.deploy.quantizers.int8 import int8
from robustcls.evaluation.attacks import as_attacks
from robustcls.evaluation.config import AttackConfig, ReportConfig
from robustcls.evaluation.measures.artefact import measure as home
from robustcls.evaluation.measures.artefact.record import Artefact
from robustcls.evaluation.measures.artefact.verdict import verdict
from robustcls.evaluation.subject import Surrogate, load_subject, load_subjects, make_subject
from robustcls.models.onnx.net import load_onnx
from robustcls.reporting.card import model_card
from robustcls.reporting.render import render
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import completed, evaluated, train_digits
from tests.helpers.report_page import shown_text

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

NAMES, SIZE, THREAT = [str(number) for number in range(10)], (1, 8, 8), ThreatModel("linf", 0.08)
ATTACKS = ["apgd_ce(steps=10)", "apgd_t(steps=10, targets=3)"]


@pytest.fixture(scope="module", autouse=True)
def short():
    """Use fewer queries and shorter timings than by default; the tests do not depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "SQUARE", "square(queries=200)")
        patch.setattr("robustcls.evaluation.artefact_speed.LIMITS", {"most": 4, "least": 4, "seconds": 2.0})
        yield


@pytest.fixture(scope="module")
def original():
    return Classifier(train_digits(), classes=NAMES, input_size=SIZE, arch="small").eval()


@pytest.fixture(scope="module")
def data():
    x, y = digits("test", size=8).batch()
    return x[:100], y[:100]


def export(net, path):
    """Export with the faster of PyTorch's two exporters; return the path."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            net, (torch.rand(2, *SIZE),), path, dynamo=False, input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, opset_version=17,
        )  # fmt: skip
    return path


def load(path):
    return load_onnx(path, classes=NAMES, input_size=SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def fp32(original, folder):
    return load(export(original, folder / "fp32.onnx"))


@pytest.fixture(scope="module")
def rounded(fp32, folder):
    int8(folder / "fp32.onnx", folder / "int8.onnx", digits("train", size=8).batch()[0][:256])
    return load(folder / "int8.onnx")


class FourBit(nn.Module):
    """Activations rounded to four bits, without a gradient, and cut off at `top`, so that many are saturated."""

    def __init__(self, top):
        super().__init__()
        self.top = top

    def forward(self, x):
        return (x * (15 / self.top)).round().clamp(0, 15) * (self.top / 15)


class Steps(nn.Module):
    """Eight grey levels by comparisons, which have no gradient, not even a straight-through one."""

    def forward(self, x):
        return sum((x > (level - 0.5) / 7).float() for level in range(1, 8)) / 7


class Steep(nn.Module):
    """Pixels made black or white by a sigmoid so steep that its gradient underflows."""

    def forward(self, x):
        return torch.sigmoid(2000 * (x - 0.5))


def four_bit(original, top=2.0):
    layers = [FourBit(top) if isinstance(layer, nn.ReLU) else layer for layer in original.net]
    return Classifier(nn.Sequential(*layers), classes=NAMES, input_size=SIZE).eval()


def in_front(layer, original):
    return Classifier(nn.Sequential(layer, original.net), classes=NAMES, input_size=SIZE).eval()


def subject_of(file, original, data, threat=THREAT):
    subject = make_subject(file, *data, threat)
    subject.original = Surrogate(original, replace(subject.model_record, name="original"), subject.y)
    return subject


def compare(file, original, data, *, attacks=ATTACKS, threat=THREAT, methods=()):
    """Return the record of the comparison, and its checks by id."""
    subject, evaluation = subject_of(file, original, data, threat), SimpleNamespace(checks=[])
    record = home.measure(
        subject, evaluation, n=len(data[1]), attacks=as_attacks(attacks), methods=methods, batch_size=100, seed=0
    )
    return record, {check.id: check for check in evaluation.checks}


@pytest.fixture(scope="module")
def honest(rounded, original, data):
    return compare(rounded, original, data, methods=["saliency"])


@pytest.mark.slow
def test_every_label_that_changed_is_counted(folder, original, data):
    other = Classifier(train_digits(epochs=1), classes=NAMES, input_size=SIZE).eval()
    x = (data[0] + 0.7 * torch.randn(data[0].shape)).clamp(0, 1)  # both models are often wrong on these
    record, _ = compare(load(export(other, folder / "other.onnx")), original, (x, data[1]))
    labels = record.labels
    before, after = original(x).argmax(1), other(x).argmax(1)
    assert sum(labels.moved.values()) == int(((before != after) & (before != data[1]) & (after != data[1])).sum()) > 0
    changed = sum(sum(one.values()) for one in (labels.lost, labels.gained, labels.moved))
    assert changed == record.agreement.total - record.agreement.correct


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap", "guided_gradcam"])
def test_a_method_that_puts_rules_on_layers_is_refused_for_a_graph_of_operators(method, rounded, data):
    with pytest.raises(InputError, match="is a graph of operators: take another method"):
        robustcls.explain(rounded, data[0][:4], target=data[1][:4], method=method)


@pytest.mark.slow
def test_an_honest_int8_file_is_not_flagged(honest):
    record, checks = honest
    assert checks["artefact_masking"].status == "pass"
    assert record.union.correct <= record.white_box.correct <= record.white_box_once.correct <= record.clean.correct
    assert record.masked == record.white_box_once.correct - record.union.correct
    assert abs(record.difference) < 0.05
    assert record.ci95[0] <= record.difference <= record.ci95[1]
    assert record.agreement.accuracy >= 0.97
    assert 0.2 < record.union.accuracy < 0.9  # some samples are broken, some are not


def test_labels_of_the_twin_are_onnxruntimes(rounded, data):
    x = torch.cat([digits("test", size=8).batch()[0], digits("train", size=8).batch()[0][:460]])
    assert len(x) == 1000
    with torch.no_grad(), rounded.net.in_pytorch():
        twins = rounded(x).argmax(1)
    assert (twins == rounded(x).argmax(1)).float().mean() >= 0.995


def test_gradients_of_an_fp32_file_are_autograds(fp32, original, data):
    with frozen(fp32), frozen(original):
        found, expected = (input_gradient(one, *data) for one in (fp32, original))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("attack", ["apgd_ce(steps=20)", "apgd_t(steps=10)"])
def test_apgd_through_an_fp32_file_is_apgd_on_its_original(attack, fp32, original, data):
    counts = [evaluated(one, *data, THREAT, [attack]).evaluation.robust.correct for one in (fp32, original)]
    assert abs(counts[0] - counts[1]) <= 1


def test_a_planted_four_bit_file_falls_under_the_union(original, data, folder):
    naive = four_bit(original)
    file = load(export(naive, folder / "four.onnx"))
    torch.testing.assert_close(file(data[0]), naive(data[0]), atol=1e-4, rtol=1e-4)
    threat = ThreatModel("linf", 0.15)
    fooled = evaluated(naive, *data, threat, ATTACKS).evaluation
    assert next(check for check in fooled.checks if check.id == "zero_gradients").status == "fail"
    record, _ = compare(file, original, data, threat=threat)
    assert fooled.robust.accuracy - record.union.accuracy >= 0.3
    assert record.clean.accuracy > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("layer", [Steps(), Steep()], ids=["no gradient through", "saturated"])
def test_a_file_whose_gradients_mislead_is_flagged(layer, original, data, folder):
    file = load(export(in_front(layer, original), folder / f"{type(layer).__name__}.onnx"))
    assert file.differentiable
    record, checks = compare(file, original, data, threat=ThreatModel("linf", 0.15))
    assert checks["artefact_masking"].status == "fail"
    assert "masked" in checks["artefact_masking"].message
    assert record.white_box.accuracy - record.union.accuracy > 0.1
    assert "more robust than it is" in verdict(record)


def test_a_file_without_a_gradient_keeps_transfer_and_square(original, data, folder):
    model = onnx.load(export(original, folder / "plain.onnx"))
    for node in model.graph.node:  # add an operator without effect, which the twin lacks
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Shrink", ["before"], ["logits"], bias=0.0, lambd=0.0))
    onnx.save(model, folder / "unknown.onnx")
    file = load(folder / "unknown.onnx")
    assert "Shrink" in file.net.no_gradient
    record, checks = compare(file, original, data, attacks=["square(queries=100)"])
    assert (record.white_box, record.difference, record.masked) == (None, None, None)
    assert record.transfer.correct < record.clean.correct
    assert record.union.correct <= min(record.transfer.correct, record.square.correct)
    assert record.original.white_box is not None
    assert (checks["artefact_masking"].status, "Shrink" in checks["artefact_masking"].message) == (
        "not_run",
        True,
    )
    assert "Shrink" in verdict(record)
    with pytest.raises(InputError, match="Shrink"):
        evaluated(file, *data, THREAT, ["pgd"])


@pytest.mark.slow
def test_both_models_meet_the_same_sets_of_attacks(fp32, original, data):
    """The two models are the same, so their numbers differ only by chance."""
    record, checks = compare(fp32, original, data)
    assert record.agreement.correct == record.agreement.total
    assert record.clean == record.original.clean
    for name in ("white_box", "transfer", "square", "union"):
        assert abs(getattr(record, name).correct - getattr(record.original, name).correct) <= 2, name
    assert checks["artefact_masking"].status == "pass"


class Tied(nn.Module):
    """A model whose logits are rounded to whole tens, so that classes are often tied."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return (self.net(x) / 10).round() * 10


@pytest.mark.slow
def test_ties_are_counted(original, data, folder):
    file = load(export(Classifier(Tied(original.net), classes=NAMES, input_size=SIZE), folder / "ties.onnx"))
    record, checks = compare(file, original, data)
    logits = file(data[0])
    top = logits.topk(2).values
    assert record.labels.ties == int((top[:, 0] == top[:, 1]).sum()) > 0
    assert 0 < record.labels.ties_attacked <= record.union.correct
    against = (record.union.correct - record.labels.ties_attacked) / record.union.total
    assert f"with ties counted against the file it classifies {against:.1%} correctly" in verdict(record)
    assert checks["artefact_masking"].status == "fail"
    assert "by a tie with another class" in checks["artefact_masking"].message


def test_another_original_is_refused(rounded, data):
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), classes=["a", "b", "c"], input_size=SIZE)
    with pytest.raises(InputError, match="other classes than original"):
        compare(rounded, other, data)


def test_without_its_original_size_and_time_remain(rounded, data, folder):
    subject = make_subject(rounded, *data, THREAT)
    record = home.measure(subject, SimpleNamespace(checks=[]), n=4, attacks=(), batch_size=4, seed=0)
    assert record.bytes == (folder / "int8.onnx").stat().st_size
    assert [one.batch for one in record.latency] == [1, 8, 32]
    assert all(0 < one.p50 <= one.p99 and one.original_p50 is None for one in record.latency)
    assert (record.original, record.union) == (None, None)
    assert "original was not measured" in verdict(record)


def test_size_agreement_and_maps_beside_the_original(honest, original, data, rounded):
    record, _ = honest
    assert record.original.parameters == sum(one.numel() for one in original.parameters())
    numbers = sum(one.numel() for one in (*original.parameters(), *original.buffers()))
    assert record.original.bytes == 4 * numbers > record.bytes
    assert record.macs == record.original.macs > 0
    same = (rounded(data[0]).argmax(1) == original(data[0]).argmax(1)).sum()
    assert (record.agreement.correct, record.agreement.total) == (same, 100)
    assert record.maps.between > record.maps.random
    assert all(one.original_p50 > 0 for one in record.latency)


def test_of_a_model_that_is_no_file_the_evaluation_says_why(original, data):
    judged = evaluated(original, *data, THREAT, ["fgsm"])
    with pytest.raises(InputError, match="robustcls export writes one"):
        home.available(judged.subject, judged.evaluation)


def test_maps_of_an_int8_file_are_drawn_and_measured(rounded, data):
    methods = ["saliency", "integrated_gradients(steps=4)", "gradcam"]
    judged = evaluated(rounded, *data, THREAT, ["fgsm"])
    counts = dict.fromkeys(("artefact_n", "corruptions_n", "minimum_n", "curves_n"), 0)
    config = ReportConfig(examples=4, maps_n=4, **counts)
    found = completed(judged, rounded, config, methods)
    assert [one.method for one in found.explanations.methods] == methods
    assert {one.method for example in found.gallery.examples for one in example.maps} >= set(methods)


# The tests below use the record of the honest file.


@pytest.fixture(scope="module")
def evaluation(honest, rounded, original, data):
    found = evaluated(rounded, *data, THREAT, ["pgd(steps=3)"]).evaluation
    found.artefact = honest[0]
    return found


def test_the_contract_of_the_json(evaluation):
    found = json.loads(evaluation.to_json())["artefact"]
    assert {"bytes", "agreement", "white_box", "transfer", "square", "union", "difference", "ci95"} <= found.keys()
    assert {"bytes", "white_box", "transfer", "square", "union"} <= found["original"].keys()
    assert all(0 <= found[name]["accuracy"] <= 1 for name in ("agreement", "white_box", "transfer", "square", "union"))
    assert Evaluation.from_json(evaluation.to_json()).artefact == evaluation.artefact


def with_record(evaluation, **values):
    return replace(evaluation, artefact=replace(evaluation.artefact, **values))


@pytest.mark.parametrize(
    ("asked", "values", "status", "words"),
    [
        ({"max_artefact_drop": 2}, {"clean_difference": -0.01, "clean_ci95": [-0.015, 0.0]}, "PASS", "1.0 [0.0, 1.5] points"),
        ({"max_artefact_drop": 2}, {"clean_difference": -0.01, "clean_ci95": [-0.03, 0.01]}, "INCONCLUSIVE", ", 3.0] points"),
        ({"max_artefact_drop": 2}, {"clean_difference": -0.05, "clean_ci95": [-0.07, -0.021]}, "FAIL", "above"),
        ({"max_artefact_robust_drop": 2}, {"difference": 0.01, "ci95": [-0.01, 0.03]}, "PASS", "-1.0 [-3.0, 1.0] points"),
        ({"max_artefact_robust_drop": 2}, {"difference": -0.03, "ci95": [-0.05, -0.01]}, "INCONCLUSIVE", "around"),
        ({"max_artefact_robust_drop": 2}, {"difference": -0.2, "ci95": [-0.3, -0.1]}, "FAIL", "n = 100 samples"),
        ({"max_artefact_robust_drop": 2}, {"difference": None}, "INCONCLUSIVE", "was not measured: `robustcls report"),
        ({"min_agreement": 0.5}, {}, "PASS", "between the exported file and its original"),
        ({"min_agreement": 1.0}, {}, "INCONCLUSIVE", "around"),
        ({"max_bytes": 1000}, {"bytes": 1000}, "PASS", "size of the exported file 1,000 bytes lies at or below"),
        ({"max_bytes": 999}, {"bytes": 1000}, "FAIL", "the threshold 999 bytes"),
        ({"max_p99_ms": 1e6}, {}, "PASS", "on n = 4 runs on one thread"),
        ({"max_p99_ms": 0}, {}, "FAIL", "compared without an interval"),
    ],
)  # fmt: skip
def test_thresholds_of_a_policy(asked, values, status, words, evaluation):
    (reason, *_), found = (made := judge(with_record(evaluation, **values), Policy(**asked))).reasons, made
    assert next(one.status for one in found.criteria if one.name in asked) == status
    assert words in reason


def test_without_an_artefact_one_line_says_how_to_get_it(evaluation):
    names = ("max_artefact_drop", "max_artefact_robust_drop", "max_bytes", "max_p99_ms")
    for asked in (*({name: 5} for name in names), {"min_agreement": 0.9}):
        verdict = judge(replace(evaluation, artefact=None), Policy(**asked))
        assert verdict.status == "INCONCLUSIVE"
        assert "`robustcls report --model CHECKPOINT --model DIR` measures it" in verdict.reasons[0]
        assert "\n" not in verdict.reasons[0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_artefact_drop": 0.02}, "points of a hundred"),
        ({"max_artefact_robust_drop": -1}, "points"),
        ({"max_bytes": 0.5}, "number of bytes"),
        ({"max_p99_ms": -1}, "milliseconds"),
        ({"min_agreement": 97}, "did you mean 0.97?"),
    ],
)
def test_a_bound_of_another_unit_is_refused(asked, words):
    with pytest.raises(InputError, match=words):
        Policy(**asked)


def test_the_page_and_the_card_show_both_models(evaluation):
    text = shown_text(render([evaluation], policy=Policy(max_bytes=10**6)))
    for words in (
        "What runs",
        "all attacks (union)",
        "Difference, points",
        "100 clean images",
        "1,000,000 bytes",
    ):
        assert words in text, words
    card = model_card(evaluation)
    assert "## What runs" in card
    assert "| all attacks (union) |" in card
    bare = replace(evaluation, artefact=Artefact(1000, 10))
    assert "because the original model was not given" in shown_text(render([bare]))
    assert "The original model was not measured" in model_card(bare)
    plain = replace(evaluation, artefact=None)
    assert "all attacks (union)" not in shown_text(render([plain]))
    assert "What runs" not in model_card(plain).split("## Limits")[0]


@pytest.fixture(scope="module")
def exported(original, folder):
    """Export the model to a folder and save its weights as net.pt; return the artefact."""
    pytest.importorskip("onnxscript")
    torch.save(original.net.state_dict(), folder / "net.pt")
    return robustcls.export(original, folder / "artefact", calibration=digits("train", size=8).batch()[0][:64])


def options(**more):
    return AttackConfig(data="digits(size=8)", n=20, eps="0.08", norm="linf", **more)


def test_a_file_is_paired_with_the_model_that_it_names(exported, original, monkeypatch):
    monkeypatch.setattr("tests.helpers.eval_models.made", lambda: original, raising=False)
    subjects = load_subjects(["tests.helpers.eval_models:made", str(exported.folder)], options())
    assert subjects[1].made_of == subjects[0].model_record.sha256
    assert subjects[1].original.model is subjects[0].model
    assert subjects[0].original is None


@pytest.mark.parametrize("same", [True, False])
def test_an_original_by_option(same, exported, original, monkeypatch):
    other = original if same else Classifier(train_digits(epochs=1), classes=NAMES, input_size=SIZE)
    monkeypatch.setattr("tests.helpers.eval_models.made", lambda: other, raising=False)
    config = ReportConfig(
        data="digits(size=8)", n=20, eps="0.08", norm="linf", original="tests.helpers.eval_models:made"
    )
    subject = load_subject(str(exported.folder), config)
    assert subject.original is not None
    assert any("was made of (SHA-256)" in note for note in subject.notes) is not same


def test_saved_examples_fool_onnxruntime_called_by_hand(exported, tmp_path, capsys):
    from robustcls.cli.main import main

    arguments = ["attack", "--model", exported.folder, "--data", "digits(size=8)", "--eps", 0.15, "-n", 40, "--attack",
                 "pgd(steps=10)", "--save-examples", tmp_path / "e.npz", "--out", tmp_path / "e.json"]  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert done.value.code == 0
    session = onnxruntime.InferenceSession(str(exported.file))
    with numpy.load(tmp_path / "e.npz") as found:
        assert len(found["y"]) >= 10
        (labels,) = (session.run(["logits"], {"images": found[name]})[0].argmax(1) for name in ("x_adv",))
        assert (labels != found["y"]).all()
        assert (session.run(["logits"], {"images": found["x"]})[0].argmax(1) == found["y"]).all()
        assert abs(found["x_adv"] - found["x"]).max() <= 0.15 + 1e-6
