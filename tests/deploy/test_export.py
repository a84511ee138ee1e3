"""Export: the folder, its checks, and what is refused with nothing left behind."""

import json
import subprocess
import sys

import numpy
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import MANIFEST, Manifest
from robustcls.runtime.session import check_reference

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = (3, 12, 12)
CLASSES = ("cat", "dog", "ship")


def make_model(net=None, **normalisation):
    net = net or nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return Classifier(net, classes=CLASSES, input_size=SIZE, arch="small", **normalisation)


@pytest.fixture
def model():
    model = make_model(mean=(0.5,), std=(0.25,))
    model.net[1].running_mean.uniform_(-0.3, 0.3)
    model.net[1].running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def images():
    return torch.rand(80, *SIZE)


def by_hand(folder, pixels):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return torch.from_numpy(session.run(["logits"], {"images": pixels.numpy()})[0])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_onnxruntime_by_hand_gives_the_models_logits(batch, model, images, tmp_path):
    robustcls.export(model.train(), tmp_path / "artefact", calibration=images)
    model.eval()
    torch.testing.assert_close(by_hand(tmp_path / "artefact", images[:batch]), model(images[:batch]).detach())


def test_the_model_is_left_as_it_was(model, images, tmp_path):
    model.train()
    model.net[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.net[0].parameters()] == [False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_folder_holds_one_file_and_what_a_runtime_must_know(model, images, tmp_path):
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images, name="mine", threat="linf:8/255")
    assert sorted(path.name for path in artefact.folder.iterdir()) == [
        "drift.npz", "manifest.json", "model.onnx", "reference.npz",
    ]  # fmt: skip
    manifest = Manifest.of(artefact.folder)
    assert manifest == artefact.manifest
    assert (manifest.name, manifest.classes, manifest.input_size) == ("mine", list(CLASSES), SIZE)
    assert manifest.threat == {"norm": "linf", "eps": 8 / 255}
    assert json.loads((artefact.folder / MANIFEST).read_text())["schema"] == "robustcls/artefact/1"
    assert manifest.file.bytes == artefact.file.stat().st_size
    with numpy.load(artefact.folder / "reference.npz") as reference:
        pixels = torch.from_numpy(reference["pixels"])
        assert torch.equal(pixels, (images[:64] * 255).round().to(torch.uint8))
        torch.testing.assert_close(
            torch.from_numpy(reference["logits"]), by_hand(artefact.folder, pixels.float() / 255), rtol=1e-5, atol=1e-6
        )
    with numpy.load(artefact.folder / "drift.npz") as drift:
        assert drift["quantiles"].shape == (3, 101)
        softmax = by_hand(artefact.folder, images).softmax(1).double()
        numpy.testing.assert_allclose(drift["quantiles"][:, 50], softmax.quantile(0.5, 0), atol=1e-6)


def test_reference_images_are_png_files_of_the_same_pixels(model, images, tmp_path):
    import io

    from PIL import Image

    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images)
    with numpy.load(artefact.folder / "reference.npz") as reference:
        ends = reference["png_ends"].tolist()
        for start, end, pixels in zip([0, *ends], ends, reference["pixels"], strict=False):
            decoded = numpy.asarray(Image.open(io.BytesIO(reference["png"][start:end].tobytes())))
            assert (decoded.transpose(2, 0, 1) == pixels).all()
        assert ends[-1] == len(reference["png"])


def test_an_artefact_is_a_model(model, images, tmp_path):
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images)
    loaded = robustcls.load(tmp_path / "artefact")
    assert (loaded.classes, loaded.input_size, loaded.arch) == (CLASSES, SIZE, "onnx fp32(small)")
    torch.testing.assert_close(loaded(images[:5]), model.eval()(images[:5]).detach())
    labels = model(images).argmax(1)
    result = robustcls.evaluate(artefact.load(), images, labels, "linf:8/255", attacks=["pgd(steps=5)"])
    plain = robustcls.evaluate(model, images, labels, "linf:8/255", attacks=["pgd(steps=5)"])
    assert abs(result.robust.correct - plain.robust.correct) <= 1
    fooled = by_hand(artefact.folder, result.examples.x_adv[result.examples.success]).argmax(1)
    assert (fooled != labels[result.examples.success]).all()


def test_int8_is_smaller_keeps_the_last_layer_and_names_its_calibration(images, tmp_path):
    import hashlib

    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    model = make_model(net)
    plain = robustcls.export(model, tmp_path / "fp32", calibration=images)
    rounded = robustcls.export(model, tmp_path / "int8", calibration=images, quantize="int8(calibrate=40)")
    assert rounded.manifest.file.bytes < 0.4 * plain.manifest.file.bytes
    found = rounded.manifest.quantization
    assert found.spec.startswith("int8(calibrate=40, ranges='minmax', keep='last'")
    assert found.calibration.n == 40
    assert found.calibration.sha256 == hashlib.sha256(images[:40].numpy().data).hexdigest()
    assert len(found.float_layers) == 1
    assert (
        found.same_label
        == (rounded.load()(images[:40]).argmax(1) == model.eval()(images[:40]).argmax(1)).float().mean()
    )
    nodes = {node.op_type for node in __import__("onnx").load(str(rounded.file)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= nodes


def test_layers_go_back_to_floating_point_until_the_bound_holds(images, tmp_path, monkeypatch):
    from robustcls.deploy import export, robust_drop

    monkeypatch.setattr(export, "HELD_OUT", 30)
    model = make_model(nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(3)], nn.AvgPool2d(12), nn.Flatten()))
    drops = iter([9.0, 4.0, 0.5])
    said = []
    monkeypatch.setattr(
        robust_drop.HeldOut, "drop", lambda self, file: robust_drop.RobustDrop(next(drops), 0.0, 10.0, len(self.y))
    )
    artefact = robustcls.export(
        model, tmp_path / "artefact", calibration=images, labels=torch.zeros(80, dtype=torch.int64),
        quantize="int8(keep=none)", max_robust_drop=1.0, threat="linf:0.1", say=said.append,
    )  # fmt: skip
    quantization = artefact.manifest.quantization
    assert (quantization.robust_drop, quantization.robust_drop_bound, quantization.robust_drop_n) == (0.5, 1.0, 30)
    assert len(quantization.float_layers) == 2
    assert quantization.calibration.n == 50  # none of them is held out
    assert sum("robust accuracy falls by" in line for line in said) == 3


def test_the_drop_is_that_of_the_union_of_both_models_examples(images, tmp_path):
    from robustcls.deploy.robust_drop import HeldOut

    model = make_model().eval()
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images)
    labels = model(images).argmax(1)
    held = HeldOut(model, images, labels, robustcls.ThreatModel("linf", 0.03), seed=0)
    drop = held.drop(artefact.file)
    assert (drop.points, drop.n) == (0.0, 80)  # the same function has the same examples
    assert drop.low < 0 < drop.high


class Branches(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))


class Draws(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + torch.rand(1)


class Mixes(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)).mean((2, 3))


@pytest.mark.parametrize(
    ("net", "words"),
    [(Branches(), "cannot be exported"), (Draws(), "differs|cannot be exported"), (Mixes(), "batch")],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing(net, words, images, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        robustcls.export(make_model(net), tmp_path / "home" / "artefact", calibration=images)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "int9"}, "int8"),
        ({"quantize": "int8(calibrat=3)"}, "calibrate"),
        ({"quantize": "int8(ranges=all)"}, "minmax"),
        ({"max_robust_drop": 1.0}, "`quantize`"),
        ({"quantize": "int8", "max_robust_drop": 1.0, "threat": "linf:0.1"}, "images do not suffice"),
        ({"quantize": "int8", "max_robust_drop": 1.0}, "images do not suffice|threat model"),
        ({"quantize": "int8", "calibration": None}, "`calibration`"),
    ],
)
def test_bad_options_leave_an_earlier_artefact_alone(options, words, model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    before = (tmp_path / "artefact" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match=words):
        robustcls.export(model, tmp_path / "artefact", **{"calibration": images} | options)
    assert (tmp_path / "artefact" / MANIFEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_a_folder_of_something_else_is_not_replaced(model, images, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        robustcls.export(model, tmp_path / "thesis", calibration=images)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    robustcls.export(model, tmp_path / "thesis", calibration=images, overwrite=True)
    assert not (tmp_path / "thesis" / "chapter1.txt").exists()


def damage_schema(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("robustcls/artefact/1", "robustcls/artefact/2"))


def damage_model(folder):
    with open(folder / "model.onnx", "ab") as file:
        file.write(b"\0")


def damage_reference(folder):
    with numpy.load(folder / "reference.npz") as reference:
        arrays = dict(reference)
    arrays["logits"] += 1.0
    numpy.savez(folder / "reference.npz", **arrays)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "half an artefact"),
        (lambda folder: (folder / "reference.npz").write_bytes(b"no"), "cannot read .*reference.npz"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not JSON"),
        (damage_schema, "robustcls/artefact/2"),
        (damage_model, "is not the file that manifest.json describes"),
        (damage_reference, "does not run on this machine as where it was exported"),
    ],
)
def test_a_damaged_artefact_is_refused_in_one_line(damage, words, model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    damage(tmp_path / "artefact")
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(tmp_path / "artefact")
    assert "\n" not in str(caught.value)


def test_the_reference_is_reproduced_to_the_last_bit_on_the_machine_that_wrote_it(model, images, tmp_path):
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images, quantize="int8")
    difference = check_reference(artefact.folder, artefact.manifest, OnnxNet(artefact.file).runner(1))
    assert difference.largest <= 1e-6 * difference.largest_logit


def test_an_artefact_is_read_without_torch(model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    code = (
        "import sys\nfrom robustcls.results.artefact import Manifest\n"
        f"Manifest.of({str(tmp_path / 'artefact')!r})\n"
        "print([name for name in ('torch', 'torchvision', 'captum', 'matplotlib', 'onnx') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_file_is_not_rounded_twice(model, images, tmp_path):
    once = robustcls.export(model, tmp_path / "once", calibration=images, quantize="int8")
    with pytest.raises(InputError, match="rounded already"):
        robustcls.export(once.load(), tmp_path / "twice", calibration=images, quantize="int8")
    assert not (tmp_path / "twice").exists()
