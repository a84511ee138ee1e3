"""The data that the scripts of the examples make of a few images."""

import re
import runpy

import numpy as np
import pytest
import torch
from PIL import Image

from robustcls.core.config import read_toml
from robustcls.data.splits import load_split
from robustcls.training.config import TrainConfig
from tests.helpers import ROOT

EXPERIMENTS = ROOT / "experiments"
NO_RECIPES = ("policy.toml", "tree.toml", "noise.toml")
RECIPES = sorted(path for path in EXPERIMENTS.rglob("*.toml") if path.name not in NO_RECIPES)


@pytest.fixture
def cifar(tmp_path):
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("automobile", "bird", "cat", "truck"):
            folder = tmp_path / "cifar" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "cifar"


def script(name):
    return runpy.run_path(str(EXPERIMENTS / name))


def test_the_transfer_data_are_small_ones_to_learn_from_and_large_ones_to_go_on_with(cifar, tmp_path):
    script("transfer/make_data.py")["make"](cifar, tmp_path / "photos")
    net = script("transfer/net.py")["pooled_vgg16"]
    for task, classes, side in (("source", ("bird", "cat"), 32), ("target", ("automobile", "truck"), 224)):
        images = load_split(f"folder:{tmp_path / 'photos' / task}", "test")
        assert images.classes == classes
        assert tuple(images.pixels.shape) == (6, 3, side, side)
        assert net(2, (3, side, side))(images.batch()[0]).shape == (6, 2)
    one, other = (net(2, (3, side, side)).state_dict() for side in (32, 224))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: t.shape for name, t in other.items()}


def test_the_lesions_are_where_the_masks_say_and_in_a_fifth_of_the_images(cifar, tmp_path):
    module = script("medical/make_data.py")
    module["COUNTS"].update(train=(8, 2), test=(8, 4))
    module["make"](cifar, tmp_path / "a")
    module["make"](cifar, tmp_path / "b")
    images = load_split(f"folder:{tmp_path / 'a' / 'images'}", "test")
    assert images.classes == ("healthy", "lesion")
    assert images.labels.tolist().count(1) == 4
    assert tuple(images.pixels.shape) == (12, 1, 32, 32)
    assert torch.equal(images.pixels, load_split(f"folder:{tmp_path / 'b' / 'images'}", "test").pixels)
    for number in range(4):
        mask = np.asarray(Image.open(tmp_path / "a" / "masks" / f"{number:04}.png")) > 127
        assert 3.14 * 2**2 * 0.7 < mask.sum() < 3.14 * 4**2 * 1.2
        spot, own = module["lesion"](np.random.default_rng(number))
        assert spot[own > 0].min() > spot[own == 0].max() - 1e-9
        assert spot[own > 0].max() == pytest.approx(spot.max())
    assert images.pixels[images.labels == 0].max() <= round(0.6 * 255)


def test_the_pointing_game_counts_maps_whose_peak_is_near_the_lesion():
    module = script("medical/pointing.py")
    mask = torch.zeros(3, 1, 64, 64)
    mask[:, :, 20:25, 30:35] = 1
    near = module["dilated"](mask)
    assert near.sum() == 3 * 9 * 9
    maps = torch.zeros(3, 64, 64)
    maps[0, 22, 32] = maps[1, 18, 28] = maps[2, 17, 32] = 1  # inside, two and three pixels off
    assert module["hits"](maps, near) == 2
    assert module["hits"](maps[:, None], near) == 2


def test_the_table_of_the_pointing_game_is_printed_from_its_file():
    row = {"called_lesion": 60, "saliency": 40, "integrated_gradients": 20, "gradcam": 80}
    found = {
        "n": 80,
        "chance": 0.031,
        "brightest": 76,
        "models": {"pgd": {"clean": row, "attacked": row | {"saliency": 0}}},
    }
    text = script("medical/pointing.py")["table"](found)
    assert "| `pgd` | clean | 75% [65, 83] | 50% [39, 61] |" in text
    assert "| brightest pixel | clean |  | 95% [88, 98] |" in text
    assert "| chance |  |  | 3.1% | 3.1% | 3.1% |" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_experiment_is_a_configuration_and_says_how_to_run_it(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    labels = re.search(r"--pseudo-labels (\S+)", " ".join(header))
    config = TrainConfig(**read_toml(path), **({"pseudo_labels": labels[1]} if labels else {}))
    assert config.eps
    assert any(f"--config {path.relative_to(EXPERIMENTS.parent).as_posix()}" in line for line in header)
    assert any("easured" in line or re.search(r"python -m experiments\.\S+\.table", line) for line in header)
