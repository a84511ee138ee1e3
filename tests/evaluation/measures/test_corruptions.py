from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.measures.corruptions.measure import CHUNK, corrupt, read_published
from robustcls.evaluation.measures.corruptions.measure import measure as measure_corruptions
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import evaluated, make_batch, make_net

NAMES = plugins.names("corruption")
EACH = 7  # published images per severity


@pytest.fixture(scope="module")
def judged():
    x, y = make_batch(150)
    return evaluated(make_net(), x, y, ThreatModel("linf", 0.01), ["fgsm"], precision="fp32", batch_size=64)


@pytest.fixture(scope="module")
def measured(judged):
    return measure_corruptions(*judged.on(make_net()), n=140, batch_size=64, seed=5)


def test_fifteen_corruptions_at_five_severities(measured):
    assert [(one.name, one.severity) for one in measured.results] == [(name, s) for name in NAMES for s in range(1, 6)]
    assert {one.accuracy.total for one in measured.results} == {measured.n} == {measured.clean.total} == {140}
    shares = [one.accuracy.correct / 140 for one in measured.results]
    assert measured.mean == pytest.approx(sum(shares) / 75)
    assert len(set(shares)) > 10
    assert measured.rule.startswith("140 of 150 evaluated samples, evenly spaced")
    assert "8 bits" in measured.rule
    for said in (
        "CIFAR-10-C",
        "frost uses generated textures",
        "reimplement the operation of ImageMagick",
        "glass blur and snow are not converted to 8 bits",
    ):
        assert said in measured.note


def test_accuracy_is_that_on_the_corrupted_images(judged, measured):
    net, at = make_net(), spaced(judged.y, 140)
    x, y = judged.x[at], judged.y[at]
    assert measured.clean.correct == (net(x).argmax(1) == y).sum()
    mean = x.mean((2, 3), keepdim=True)
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        made = (((x - mean) * factor + mean) * 255).round() / 255
        found = next(one for one in measured.results if (one.name, one.severity) == ("contrast", severity))
        assert found.accuracy.correct == (net(made).argmax(1) == y).sum()


def test_images_have_8_bits(judged):
    for name in NAMES:
        images = torch.cat([part for part, _ in corrupt(judged.x, judged.y, name, 3, 0)])
        assert images.shape == judged.x.shape
        torch.testing.assert_close(images * 255, (images * 255).round(), atol=1e-4, rtol=0)


def test_draws_depend_on_the_seed_and_not_on_the_batch_size(judged, measured):
    assert measure_corruptions(*judged.on(make_net()), n=140, batch_size=17, seed=5) == measured
    assert measure_corruptions(*judged.on(make_net()), n=140, batch_size=64, seed=6).results != measured.results


def test_parts_of_many_images_have_draws_of_their_own(judged):
    same = judged.x[:1].expand(CHUNK + 1, -1, -1, -1)
    first, second = (images for images, _ in corrupt(same, torch.zeros(CHUNK + 1), "gaussian_noise", 3, 0))
    assert len(second) == 1
    assert not torch.equal(first[0], second[0])


def test_the_model_is_left_as_it_was(judged):
    net = make_net().train()
    net.body[0].weight.requires_grad_(False)
    before = deepcopy(net.state_dict())
    measure_corruptions(*judged.on(net), n=4, batch_size=2, seed=0)
    assert net.training
    assert [parameter.requires_grad for parameter in net.parameters()] == [False] + [True] * 5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_record_survives_json(judged, measured):
    evaluation = replace(judged.evaluation, corruptions=measured)
    assert Evaluation.from_json(evaluation.to_json()).corruptions == measured


def publish(folder, labels=None, **changed):
    """Write files like CIFAR-10-C: of 7 images per severity, the model classifies 7, 6, 5, 4 and 3 correctly."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (5 * EACH, 8, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        right = make_net()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
    for severity in range(5):
        right[severity * EACH : severity * EACH + severity] += 1
    if labels is None:
        labels = right % 4
    np.save(folder / "labels.npy", labels)
    for name in NAMES:
        np.save(folder / f"{name}.npy", changed.get(name, images))
    return folder


def test_published_images_are_read_by_severity_with_their_labels(tmp_path, judged):
    folder = publish(tmp_path / "CIFAR-10-C", fog=np.zeros((5 * EACH, 8, 8, 3), dtype=np.uint8))
    labels = np.load(folder / "labels.npy").reshape(5, EACH)
    assert set(labels.flatten()) == {0, 1, 2, 3}, "all classes occur"
    found = measure_corruptions(*judged.on(make_net()), n=100, batch_size=3, seed=0, corruptions_from=folder)
    assert found.n == EACH
    assert found.clean.total == 100
    black = int(make_net()(torch.zeros(1, 3, 8, 8)).argmax())
    for one in found.results:
        expected = (labels[one.severity - 1] == black).sum() if one.name == "fog" else EACH + 1 - one.severity
        assert (one.accuracy.correct, one.accuracy.total) == (expected, EACH)
    assert found.source == "published files in CIFAR-10-C"
    assert found.rule.startswith("7 of the 7 published images")
    assert "clean: 100 of the 150 evaluated samples" in found.rule
    few = measure_corruptions(*judged.on(make_net()), n=3, batch_size=3, seed=0, corruptions_from=folder)
    for one in few.results:
        if one.name != "fog":
            at = spaced(torch.from_numpy(labels[one.severity - 1].astype(np.int64)), 3).tolist()
            assert one.accuracy.correct == sum(place >= one.severity - 1 for place in at)


def test_the_folder_one_is_in_has_a_name(tmp_path, judged, monkeypatch):
    monkeypatch.chdir(publish(tmp_path / "CIFAR-10-C"))
    found = measure_corruptions(*judged.on(make_net()), n=2, batch_size=3, seed=0, corruptions_from=Path())
    assert found.source == "published files in CIFAR-10-C"


IMAGES = np.zeros((5 * EACH, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"snow": IMAGES[:-1]}, r"snow\.npy: uint8 of shape \(34, 8, 8, 3\): expected uint8 images of 35,H,W,3"),
        ({"snow": IMAGES[..., 0]}, "snow.npy"),
        ({"snow": IMAGES[:, :4]}, "snow.npy.*all of one size"),
        ({"snow": IMAGES.astype(np.float32)}, "snow.npy: float32"),
        ({"brightness": IMAGES[0, 0, 0, 0]}, "npy"),
        ({"labels": np.zeros(34, dtype=int)}, r"labels\.npy: int64 of shape \(34,\)"),
        ({"labels": np.zeros((35, 1), dtype=int)}, "labels.npy"),
        ({"labels": np.zeros(35)}, "labels.npy: float64"),
        ({"labels": np.zeros(0, dtype=int)}, "labels.npy"),
        ({"labels": -np.ones(35, dtype=int)}, "labels.npy: label -1 is negative"),
    ],
)
def test_published_files_of_another_shape_are_refused(tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as caught:
        read_published(publish(tmp_path / "files", **changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["labels", "frost"])
def test_missing_and_damaged_files_are_refused(tmp_path, name):
    folder = publish(tmp_path / "files")
    file = folder / f"{name}.npy"
    for content in (b"", b"<html>not found</html>", file.read_bytes()[:100]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.npy is no array of numpy.*download it again"):
            read_published(folder)
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=rf"{name}\.npy is no array"):
        read_published(folder)
    file.unlink()
    with pytest.raises(InputError, match=rf"{name}\.npy is missing"):
        read_published(folder)


def test_published_files_that_do_not_fit_the_model_are_refused(tmp_path, judged):
    sizes = {name: np.zeros((5 * EACH, 8, 9, 3), dtype=np.uint8) for name in NAMES}
    with pytest.raises(InputError, match="images of 3x8x9, but the model was evaluated on 3x8x8"):
        measure_corruptions(
            *judged.on(make_net()), n=9, batch_size=3, seed=0, corruptions_from=publish(tmp_path / "sizes", **sizes)
        )
    ten = publish(tmp_path / "ten", labels=np.arange(5 * EACH) % 10)
    with pytest.raises(InputError, match="labels of 10 classes, but the model has 4"):
        measure_corruptions(*judged.on(make_net()), n=9, batch_size=3, seed=0, corruptions_from=ten)
