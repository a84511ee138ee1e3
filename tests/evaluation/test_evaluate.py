import copy
import importlib
import json
import threading

import numpy as np
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.subject import describe_model
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import HARMLESS, Masked, evaluated, make_batch, make_net

LINF = ThreatModel("linf", 0.02)
ATTACKS = ["fgsm", "pgd(steps=5)", "apgd_ce(steps=5)", "apgd_t(steps=5)"]


def evaluate(model=None, attacks=ATTACKS, threat=LINF, batch=None, **options) -> Evaluation:
    x, y = batch or make_batch()
    options = {"precision": "fp32", "batch_size": 16} | options
    return robustcls.evaluate(model or make_net(), x, y, threat, attacks=attacks, **options)


def judged(model=None, attacks=ATTACKS, threat=LINF, **options):
    x, y = make_batch()
    options = {"precision": "fp32", "batch_size": 16} | options
    return evaluated(model or make_net(), x, y, threat, attacks, **options)


def without_times(evaluation: Evaluation) -> dict:
    whole = json.loads(evaluation.to_json())
    for key in ("started", "seconds", "commit"):
        del whole["provenance"][key]
    for attack in whole["attacks"]:
        del attack["seconds"]
    return whole


def test_evaluate_is_a_function_however_often_and_whatever_was_imported():
    assert evaluate(attacks=["fgsm"]).clean.total == 60
    importlib.import_module("robustcls.evaluation.evaluate")
    assert evaluate(attacks=["fgsm"]).clean.total == 60


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_the_model_is_left_bit_for_bit(training, alone):
    model = make_net()
    expected = without_times(evaluate(copy.deepcopy(model), alone=alone))
    x, y = make_batch()
    model.train(training)
    model.body[1].train(not training)  # submodules may be in different modes
    model.body[0].weight.requires_grad_(False)
    model(x).sum().backward()
    model.load_state_dict(make_net().state_dict())
    before, pixels, labels = copy.deepcopy(model), x.clone(), y.clone()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    identities = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    random = torch.get_rng_state()

    found = without_times(evaluate(model, batch=(x, y), alone=alone))

    assert found == expected, "the mode of the module must not matter"
    assert torch.equal(x, pixels)
    assert torch.equal(y, labels)
    assert torch.equal(torch.get_rng_state(), random)
    assert identities == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    for (name, old), (_, new) in zip(before.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(old, new), name
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert old.training == new.training
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert old.requires_grad == new.requires_grad, name
        assert (new.grad is None) == (name not in grads)
        assert new.grad is None or torch.equal(new.grad, grads[name])


def test_same_seed_same_json():
    assert without_times(evaluate(seed=5)) == without_times(evaluate(seed=5))
    first, again, other = (judged(attacks=["pgd(steps=2)"], seed=seed).examples.x_adv for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_counts_agree(alone, precision):
    found = evaluate(alone=alone, precision=precision)
    assert Evaluation.from_json(found.to_json()) == found
    right = [sample for sample in found.samples if sample.clean == sample.label]
    held = [sample for sample in right if sample.broken_by is None]
    total = len(found.samples)
    assert (found.clean.correct, found.clean.total, found.data.n) == (len(right), 60, 60)
    assert found.clean.correct == 45
    assert 0 < found.robust.correct == len(held) < len(right)
    assert found.robust.kind == "upper bound: " + ", ".join(ATTACKS)
    left = len(right)
    for attack in found.attacks:
        mine = [sample for sample in found.samples if sample.broken_by == attack.name]
        assert attack.attacked == left
        assert attack.broken == len(mine)
        left -= len(mine)
        assert attack.robust_accuracy == left / total
        assert attack.error == ""
        assert attack.forwards > 0
        assert attack.backwards > 0
        distances = sorted(sample.distance for sample in mine)
        assert attack.median_distance == (distances[(len(mine) - 1) // 2] if mine else None)
    assert left == found.robust.correct
    for sample in found.samples:
        assert (sample.distance is None) == (sample.broken_by is None)
        assert sample.distance is None or 0 < sample.distance <= LINF.eps + 1e-6
        assert (sample.adversarial == sample.clean) == (sample.broken_by is None)
        assert sample.broken_by is None or sample.clean == sample.label


def test_each_alone():
    found = evaluate(alone=True)
    for attack in found.attacks:
        fooled = [sample for sample in found.samples if attack.name in sample.fooled_by]
        right = sum(sample.clean == sample.label for sample in found.samples)
        assert attack.alone.correct == right - len(fooled)
        assert attack.unique == sum(sample.fooled_by == [attack.name] for sample in found.samples)
        assert found.robust.accuracy <= attack.alone.accuracy <= found.clean.accuracy
    assert found.attacks[1].alone.accuracy < found.clean.accuracy
    for sample in found.samples:
        assert sample.broken_by == (sample.fooled_by[0] if sample.fooled_by else None)
    survivors_only = evaluate()
    assert survivors_only.robust.correct == pytest.approx(found.robust.correct, abs=2)  # random starts differ
    assert all(attack.alone is None is attack.unique for attack in survivors_only.attacks)
    assert all(sample.fooled_by is None for sample in survivors_only.samples)


@pytest.mark.parametrize("alone", [True, False])
def test_attacks_without_a_sample_left_to_attack(alone):
    everything = evaluate(
        threat=ThreatModel("linf", 1.0), attacks=["tests.helpers.eval_models:far", "pgd(steps=2)"], alone=alone
    )
    assert [attack.broken for attack in everything.attacks] == [45, 0]
    assert [attack.attacked for attack in everything.attacks] == [45, 0]
    assert [attack.error for attack in everything.attacks] == ["", ""]
    assert everything.robust.correct == 0
    x, y = make_batch()
    wrong = evaluate(batch=(x[::4], y[::4]), alone=alone)
    assert (wrong.clean.correct, wrong.robust.correct) == (0, 0)
    assert all(attack.attacked == attack.broken == 0 and attack.error == "" for attack in wrong.attacks)


def test_a_larger_ball_breaks_more():
    shares = [evaluate(threat=ThreatModel("linf", eps)).robust.accuracy for eps in (0, 0.01, 0.03, 0.3)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.75
    assert shares[-1] < 0.05


@pytest.mark.parametrize("threat", [LINF, ThreatModel("l2", 0.2), ThreatModel("l1", 1.0)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_examples_fool_the_model_in_plain_torch(threat, precision, tmp_path):
    result = judged(threat=threat, precision=precision)
    file = tmp_path / "examples.npz"
    count = result.evaluation.examples.save(file)
    with np.load(file, allow_pickle=False) as saved:
        assert sorted(saved) == ["broken_by", "index", "x", "x_adv", "y"]
        x, x_adv, y, index, by = (saved[key] for key in ("x", "x_adv", "y", "index", "broken_by"))
    assert count == len(x) == sum(sample.broken_by is not None for sample in result.evaluation.samples) > 5
    assert x.dtype == x_adv.dtype == np.float32
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    delta = (x_adv.astype(np.float64) - x).reshape(count, -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.norm]
    sizes = np.linalg.norm(delta, order, axis=1)
    assert sizes.max() <= threat.eps + 1e-6
    images, labels = make_batch()
    assert np.array_equal(images.numpy()[index], x)
    assert np.array_equal(labels.numpy()[index], y)
    with torch.no_grad():
        predicted = make_net()(torch.from_numpy(x_adv)).argmax(1).numpy()
        assert np.array_equal(make_net()(torch.from_numpy(x)).argmax(1).numpy(), y)
    samples = {sample.index: sample for sample in result.evaluation.samples}
    for row, number in enumerate(index.tolist()):
        sample = samples[number]
        assert predicted[row] == sample.adversarial != y[row]
        assert by[row] == sample.broken_by
        assert sizes[row] == pytest.approx(sample.distance, rel=1e-5)


def test_no_examples_are_a_file_too(tmp_path):
    file = tmp_path / "examples.npz"
    assert judged(threat=ThreatModel("linf", 0)).evaluation.examples.save(file) == 0
    with np.load(file, allow_pickle=False) as saved:
        assert saved["x"].shape == (0, 3, 8, 8)
        assert saved["broken_by"].shape == (0,)


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_outside_ball_or_box_never_counts(name, alone):
    result = judged(attacks=[f"tests.helpers.eval_models:{name}", "fgsm"], alone=alone)
    first, second = result.evaluation.attacks
    assert (first.broken, first.error) == (0, "")
    assert first.robust_accuracy == result.evaluation.clean.accuracy == 0.75
    assert second.attacked == 45
    assert second.broken > 0, "the next attack still meets all samples"
    assert result.examples.x_adv.isfinite().all()
    assert LINF.distance(result.examples.x_adv, result.x).max() <= LINF.eps + 1e-6
    assert not any(
        f"tests.helpers.eval_models:{name}" in (sample.fooled_by or ()) for sample in result.evaluation.samples
    )


def test_the_images_outside_would_fool_the_model():
    """This is the control: with a ball or box that contains them, the same images count as adversarial."""
    assert evaluate(attacks=["tests.helpers.eval_models:far"], threat=ThreatModel("linf", 1.0)).robust.correct == 0
    for name in ("beside", "outside_the_box"):
        x, y = make_batch()
        x_adv = plugins.load("attack", f"tests.helpers.eval_models:{name}")(make_net(), x, y, LINF)
        with torch.no_grad():
            assert ((make_net()(x_adv).argmax(1) != y) & (make_net()(x).argmax(1) == y)).sum() > 10
        assert LINF.distance(x_adv, x).max() == pytest.approx({"beside": 0.04, "outside_the_box": 0.02}[name], abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("tests.helpers.eval_models:raises", "RuntimeError: two"),
        ("tests.helpers.eval_models:raises(kind='KeyError')", "KeyError: 'two"),
        ("tests.helpers.eval_models:raises(kind='TypeError')", "TypeError: two"),
        ("tests.helpers.eval_models:raises(kind='Assertion')", "AssertionError: two"),
        ("tests.helpers.eval_models:returns_none", "ValueError: it gave NoneType for images (16, 3, 8, 8)"),
        ("tests.helpers.eval_models:returns_one", "ValueError: it gave (1, 3, 8, 8) for images (16, 3, 8, 8)"),
        ("tests.helpers.eval_models:returns_twice", "ValueError: it gave (32, 3, 8, 8)"),
    ],
)
def test_an_attack_that_fails_is_recorded_and_the_next_goes_on(spec, error):
    found = evaluate(attacks=[spec, "pgd(steps=5)"])
    first, second = found.attacks
    assert first.error.startswith(error)
    assert "\n" not in first.error
    assert first.broken == 0
    assert (second.attacked, second.error) == (45, "")
    assert second.broken > 0


def test_an_attack_may_give_doubles():
    found = evaluate(attacks=["tests.helpers.eval_models:double"])
    assert found.attacks[0].error == ""
    assert found.attacks[0].broken > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": make_batch()[0] * 255}, "not in [0, 1]"),
        ({"images": make_batch()[0] - 0.5}, "not in [0, 1]"),
        ({"images": (make_batch()[0] * 255).byte()}, "torch.uint8"),
        ({"images": make_batch()[0][0]}, "N,C,H,W"),
        ({"images": make_batch()[0][:0], "labels": make_batch()[1][:0]}, "non-empty"),
        ({"labels": make_batch()[1] + 4}, "beyond the model's 4 classes"),
        ({"labels": make_batch()[1] - 1}, "negative"),
        ({"labels": make_batch()[1][:3]}, "one integer per image"),
        ({"labels": make_batch()[1].tolist()}, "labels are list"),
        ({"attacks": []}, "no attack was named"),
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
        ({"attacks": ["fgsm", "pgd(step=3)"]}, "did you mean 'steps'"),
        ({"attacks": ["pgd(steps=0)"]}, "give 1 or more"),
        ({"suite": "fast"}, "give one"),
        ({"attacks": None, "suite": "fsat"}, "did you mean 'fast'"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "int8"}, "auto, bf16, fp16, fp32"),
        ({"model": nn.Flatten(0)}, "must give logits"),
        ({"model": nn.Sequential(nn.Conv2d(3, 2, 3))}, "two classes or more"),
    ],
)
def test_wrong_input_is_named_in_one_line(changes, message):
    x, y = make_batch()
    arguments = {"model": make_net(), "images": x, "labels": y, "threat": LINF, "attacks": ["fgsm"]} | changes
    with pytest.raises(InputError) as caught:
        robustcls.evaluate(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_another_size_is_refused():
    model = robustcls.core.classifier.Classifier(make_net(), classes="abcd", input_size=(3, 32, 32))
    with pytest.raises(InputError, match="images are 3x8x8, the model takes 3x32x32"):
        evaluate(model)


def test_attributes_that_mean_something_else_do_no_harm():
    model = make_net()
    model.input_size, model.classes, model.arch = 224, 4, None
    found = evaluate(model, attacks=["fgsm"])
    assert found.model.input_size == []
    assert found.model.classes == ["0", "1", "2", "3"]
    assert found.model.arch == "Net"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision(dtype):
    expected, found = evaluate(), evaluate(make_net().to(dtype))
    assert found.clean.correct == pytest.approx(expected.clean.correct, abs=0 if dtype == torch.float64 else 5)
    assert found.robust.correct == pytest.approx(expected.robust.correct, abs=1 if dtype == torch.float64 else 8)
    images = evaluate(batch=(make_batch()[0].double(), make_batch()[1].int()))
    assert images.samples == expected.samples


def test_a_model_that_writes_on_its_input_leaves_the_images():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, x):
            return self.net(x.mul_(0.5).mul_(2))

    x, y = make_batch()
    pixels = x.clone()
    assert evaluate(Writes(), batch=(x, y)).samples == evaluate().samples
    assert torch.equal(x, pixels)


def test_a_model_that_cannot_be_copied():
    model = make_net()
    model.lock = threading.Lock()
    found = evaluate(model)
    assert found.robust.correct == pytest.approx(evaluate().robust.correct, abs=1)
    assert all(attack.forwards > 0 and attack.backwards > 0 for attack in found.attacks)


def test_gradients_switched_off_outside_do_not_matter():
    expected = evaluate().samples
    with torch.no_grad():
        assert evaluate().samples == expected
    model, (x, y) = make_net(), make_batch()
    with torch.inference_mode():
        assert evaluate(model, batch=(x * 1, y * 1)).samples == expected


@pytest.mark.parametrize("n", [1, 2])
def test_few_images(n):
    x, y = make_batch()
    found = evaluate(batch=(x[1 : 1 + n], y[1 : 1 + n]), batch_size="auto")
    assert found.clean.total == n == len(found.samples)


def test_two_classes_in_the_fast_suite():
    x, y = make_batch(num_classes=2)
    found = robustcls.evaluate(make_net(2), x, y, LINF, suite="fast")
    assert [attack.name.partition("(")[0] for attack in found.attacks] == [
        "malt",
        "apgd_pm",
        "malt",
        "square",
        "square",
    ]
    assert found.robust.kind == "upper bound: fast"
    assert found.robust.accuracy < found.clean.accuracy
    assert robustcls.evaluate(make_net(2), x, y, LINF).robust == found.robust, "fast is the default"


def test_names():
    assert evaluate(attacks="fgsm", name="mine").model.name == "mine"
    assert evaluate(attacks="fgsm").model.name == "Net"


def test_the_hash_follows_the_weights_and_buffers():
    one, same, other = describe_model(make_net()), describe_model(make_net()), make_net()
    other.passes += 1
    assert one.sha256 == same.sha256 != describe_model(other).sha256
    assert len(one.sha256) == 64
    assert one.parameters == sum(parameter.numel() for parameter in make_net().parameters())


def test_provenance():
    found = evaluate(attacks=["fgsm"], seed=7)
    assert found.provenance.seed == 7
    assert found.provenance.precision == "fp32"
    assert found.provenance.versions["torch"] == torch.__version__.partition("+")[0]
    assert found.provenance.started.endswith("+00:00")
    assert found.threat.eps_text == "0.02"
    assert found.attacks[0].options == {"random_start": False, "step_size": None}


def test_progress_sees_every_attack():
    seen = []

    def progress(batches, label, count, standing):
        assert standing() == count
        yield from batches
        seen.append((label, count, sum(len(batch) for batch in batches)))
        assert 0 < standing() <= count

    judged(attacks=["fgsm", "tests.helpers.eval_models:far"], progress=progress)
    assert seen[0] == ("fgsm", 45, 45)
    assert seen[1][0] == "tests.helpers.eval_models:far"
    assert seen[1][1] == seen[1][2] < 45


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_the_gpu():
    expected = evaluate()
    found = evaluate(make_net().cuda())
    assert found.clean == expected.clean
    assert found.robust.correct == pytest.approx(expected.robust.correct, abs=2)


def test_a_model_that_gives_no_number_is_refused_before_it_is_attacked():
    x, y = make_batch(8)
    broken = Masked(make_net(), after=lambda logits: logits * float("nan"))
    with pytest.raises(InputError, match="are not numbers on any"):
        robustcls.evaluate(broken, x, y, robustcls.ThreatModel("linf", 0.1), attacks=["fgsm"])
