"""Exporting an artefact, or a third-party ONNX file, again: its properties and its source stay the same."""

import pytest
import torch

import robustcls
from robustcls.results.artefact import Manifest
from robustcls.runtime.session import check_reference
from tests.cli.conftest import run_main
from tests.deploy.conftest import CLASSES, SIZE, make_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def images_of_three(split):
    """Return data that fits the model of these tests."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(80, *SIZE, generator=generator), torch.arange(80) % 3, CLASSES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the artefacts of one model in 32 and 8 bits; no test changes them."""
    folder = tmp_path_factory.mktemp("made")
    model, images = make_model(), images_of_three("train")[0]
    model.pruned = "channels(ratio=0.5)"
    plain = robustcls.export(model, folder / "fp32", calibration=images, name="original", threat="linf:8/255")
    rounded = robustcls.export(
        model, folder / "int8", calibration=images, quantize="int8(calibrate=40)", name="original", threat="linf:8/255"
    )
    return plain, rounded


def foreign(artefact, path):
    """Save the file of an artefact with other names and another opset, as another program would write it; return the path."""
    model = onnx.load(str(artefact.file))
    names = {"images": "pixels", "logits": "scores"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    next(one for one in model.opset_import if one.domain == "").version = 19
    onnx.save(model, str(path))
    return str(path)


def test_an_int8_artefact_exported_again_is_int8_and_of_the_same_original(made, tmp_path):
    _, rounded = made
    found = run_main("export", "--model", rounded.folder, "--out", tmp_path / "copy")
    assert found.status == 0, found.err
    assert found.out.startswith(f"{tmp_path / 'copy'}: int8, ")
    before, copy = rounded.manifest, Manifest.of(tmp_path / "copy")
    assert copy.kind == "int8"
    for field in ("quantization", "pruning", "source", "threat", "reference_tolerance", "file"):
        assert getattr(copy, field) == getattr(before, field), field
    assert robustcls.load(tmp_path / "copy").arch == "onnx int8(small)"


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_copy_made_in_python_keeps_the_original_too(kind, made, tmp_path):
    before = made[kind == "int8"].manifest
    copy = robustcls.export(made[kind == "int8"].load(), tmp_path / "copy", name="again").manifest
    for field in ("quantization", "pruning", "source", "threat", "reference_tolerance", "file", "kind"):
        assert getattr(copy, field) == getattr(before, field), field
    assert copy.name == "again"


def test_a_copy_that_is_checked_on_noise_still_says_how_its_images_are_decoded(made, tmp_path):
    import copy

    artefact = copy.deepcopy(made[0])
    artefact.manifest.decoding.white = 4095.0
    again = robustcls.export(artefact.load(), tmp_path / "copy").manifest
    assert again.decoding == artefact.manifest.decoding


def test_a_rounded_copy_of_an_fp32_artefact_keeps_the_original(made, tmp_path):
    plain, _ = made
    found = run_main(
        "export", "--model", plain.folder, "--data", "tests.deploy.test_copies:images_of_three", "--quantize",
        "int8(calibrate=32)", "--out", tmp_path / "int8",
    )  # fmt: skip
    assert found.status == 0, found.err
    copy = Manifest.of(tmp_path / "int8")
    assert (copy.kind, copy.source, copy.pruning) == ("int8", plain.manifest.source, plain.manifest.pruning)
    assert copy.quantization.calibration.n == 32


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_file_of_another_program_is_described_as_it_is(kind, made, tmp_path):
    file = foreign(made[kind == "int8"], tmp_path / "theirs.onnx")
    found = run_main(
        "export", "--model", file, "--data", "tests.deploy.test_copies:images_of_three", "--out", tmp_path / "copy"
    )
    assert found.status == 0, found.err
    assert found.out.startswith(f"{tmp_path / 'copy'}: {kind}, ")
    manifest = Manifest.of(tmp_path / "copy")
    assert (manifest.file.input, manifest.file.output, manifest.file.opset) == ("pixels", "scores", 19)
    assert manifest.reference_tolerance == (1e-4 if kind == "fp32" else 0.05)
    assert manifest.source.parameters == manifest.file.parameters > 0
    assert manifest.quantization is None  # nothing is known about its quantisation
    session = onnxruntime.InferenceSession(str(tmp_path / "copy" / "model.onnx"))
    check_reference(
        tmp_path / "copy", manifest, lambda x: session.run([manifest.file.output], {manifest.file.input: x})[0]
    )
    assert robustcls.load(tmp_path / "copy").arch == f"onnx {kind}(onnx)"


def test_a_file_of_another_program_is_rounded_under_its_own_names(made, tmp_path):
    file = foreign(made[0], tmp_path / "theirs.onnx")
    found = run_main(
        "export", "--model", file, "--data", "tests.deploy.test_copies:images_of_three", "--quantize",
        "int8(calibrate=32)", "--out", tmp_path / "copy",
    )  # fmt: skip
    assert found.status == 0, found.err
    manifest = Manifest.of(tmp_path / "copy")
    assert (manifest.file.input, manifest.kind) == ("pixels", "int8")


def test_parameters_are_weights_and_biases_whatever_the_precision(made):
    plain, rounded = made
    expected = (3 * 9 * 8 + 8) + (8 * 9 * 8 + 8) + (8 * 3 + 3)  # BatchNorm is folded into the first layer
    assert (plain.manifest.file.parameters, rounded.manifest.file.parameters) == (expected, expected)


def test_an_artefact_that_does_not_say_its_kind_is_what_its_quantisation_says(made):
    import dataclasses

    for artefact, kind in zip(made, ("fp32", "int8"), strict=True):
        first = dataclasses.replace(artefact.manifest, file=dataclasses.replace(artefact.manifest.file, kind=""))
        assert first.kind == kind
