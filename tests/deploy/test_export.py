"""Export: the folder, its checks, and refusals that leave nothing behind."""

import json
import shutil
import subprocess
import sys

import numpy
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import MANIFEST, Manifest
from robustcls.runtime.session import check_reference
from tests.deploy.conftest import CLASSES, SIZE, make_model

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def by_hand(folder, pixels):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return torch.from_numpy(session.run(["logits"], {"images": pixels.numpy()})[0])


def test_onnxruntime_by_hand_gives_the_models_logits(model, images, tmp_path):
    robustcls.export(model.train(), tmp_path / "artefact", calibration=images)
    model.eval()
    for batch in (1, 3, 32):
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
    assert quantization.calibration.n == 50  # the 30 held-out images are not among them
    assert sum("robust accuracy falls by" in line for line in said) == 3


def test_the_drop_is_that_of_the_union_of_both_models_examples(images, tmp_path):
    from robustcls.deploy.robust_drop import HeldOut

    model = make_model().eval()
    artefact = robustcls.export(model, tmp_path / "artefact", calibration=images)
    labels = model(images).argmax(1)
    held = HeldOut(model, images, labels, robustcls.ThreatModel("linf", 0.03), seed=0)
    drop = held.drop(artefact.file)
    assert (drop.points, drop.n) == (0.0, 80)  # both compute the same function and have the same examples
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


def test_what_cannot_be_exported_prints_nothing_else(images, tmp_path, capfd):
    with pytest.raises(InputError, match="cannot be exported"):
        robustcls.export(make_model(Branches()), tmp_path / "artefact", calibration=images)
    assert capfd.readouterr() == ("", "")


def test_a_list_of_classes_that_is_not_that_of_the_outputs_is_refused(model, images, tmp_path):
    model.classes = ("cat", "dog")
    with pytest.raises(InputError, match="gives 3 outputs and names 2 classes"):
        robustcls.export(model, tmp_path / "artefact", calibration=images)


def test_too_few_calibration_images_are_reported(images, tmp_path, monkeypatch):
    from robustcls.deploy import export

    monkeypatch.setattr(export, "HELD_OUT", 30)
    said = []
    bound = {"max_robust_drop": 100.0, "threat": "linf:0.01"}
    for name, options in (("plain", {}), ("bound", bound)):
        robustcls.export(
            make_model(),
            tmp_path / name,
            calibration=images,
            quantize="int8(calibrate=512)",
            say=said.append,
            **options,
        )
    lines = [line for line in said if line.startswith("calibrated on")]
    assert lines == [
        "calibrated on 80 images, not 512: there are 80",
        "calibrated on 50 images, not 512: there are 80, of which 30 are held out",
    ]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Return an artefact that is exported once; tests copy it."""
    folder = tmp_path_factory.mktemp("earlier") / "artefact"
    robustcls.export(make_model(), folder, calibration=torch.rand(80, *SIZE))
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"quantize": "int8", "max_robust_drop": 1.0},
            "`max_robust_drop` needs a threat model.*give `threat`, such as",
        ),
        ({"quantize": "int8(adversarial=0.5)"}, "needs a threat model.*give `threat`, such as"),
        ({"quantize": "int9"}, "int8"),
        ({"quantize": "int8(calibrat=3)"}, "calibrate"),
        ({"quantize": "int8(ranges=all)"}, "minmax"),
        ({"max_robust_drop": 1.0}, "`quantize`"),
        ({"quantize": "int8", "max_robust_drop": 1.0, "threat": "linf:0.1"}, "images are too few"),
        ({"quantize": "int8", "calibration": None}, "`calibration`"),
    ],
)
def test_bad_options_leave_an_earlier_artefact_alone(options, words, model, images, earlier, tmp_path):
    shutil.copytree(earlier, tmp_path / "artefact")
    before = (tmp_path / "artefact" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match=words):
        robustcls.export(model, tmp_path / "artefact", **{"calibration": images} | options)
    assert (tmp_path / "artefact" / MANIFEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


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
    with pytest.raises(InputError, match="already quantised"):
        robustcls.export(once.load(), tmp_path / "twice", calibration=images, quantize="int8")
    assert not (tmp_path / "twice").exists()
