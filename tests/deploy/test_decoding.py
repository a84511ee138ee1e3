"""The manifest describes how an encoded image becomes pixels, in the same way as data/folders does it."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import get_args

import numpy
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.data.folders.decode import decode
from robustcls.data.spec import decoding_of
from robustcls.deploy.artefact import _known
from robustcls.images.decode import FILTERS, RULES, Form
from robustcls.images.formats import endings
from robustcls.results.artefact import Decoding
from robustcls.serving.worker import decode_all


def decoding(channels, height, width, white=None, **resizing):
    size, decoded = (channels, height, width), resizing | ({"scale": white} if white else {})
    return _known(Classifier(nn.Flatten(), classes="ab", input_size=size), "mine", size, decoded).decoding


def by_manifest(file, said):
    """Decode an image as the manifest describes, with Pillow alone."""
    assert said.resize == "shorter side, Pillow's BILINEAR filter, antialiased; not where the size is right"
    assert said.crop == "centre; of an odd surplus the larger part off the right and the bottom"
    mode = {"Pillow's mode L (ITU-R 601 luma)": "L", "Pillow's mode RGB": "RGB"}[said.colour]
    image = Image.open(io.BytesIO(file))  # orientation, colour profile and all frames but the first are ignored
    if image.mode == "I;16":
        values = numpy.asarray(image).astype(float).clip(0, said.white or 65535)
        image = Image.fromarray((values * 255 / (said.white or 65535)).round().astype(numpy.uint8))
    image = image.convert(mode)
    if image.size != (said.width, said.height):
        scale = max(said.width / image.width, said.height / image.height)
        size = [max(one, round(side * scale)) for one, side in zip((said.width, said.height), image.size, strict=True)]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - said.width) // 2, (size[1] - said.height) // 2
        image = image.crop((left, top, left + said.width, top + said.height))
    return torch.from_numpy(numpy.array(image)).reshape(said.height, said.width, said.channels).permute(2, 0, 1)


def encoded(mode, size, kind, **options):
    noise = numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=numpy.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(numpy.uint16) * 16)
    else:
        bands = len(Image.new(mode, (1, 1)).getbands())
        image = Image.fromarray(noise[..., 0] if bands == 1 else noise[..., :bands], mode=mode)
    buffer = io.BytesIO()
    if options.pop("turned", False):
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("form", [(3, 12, 12), (1, 12, 12), (3, 9, 14)])
@pytest.mark.parametrize(
    ("file", "white"),
    [
        (encoded("RGB", (31, 20), "PNG"), None),
        (encoded("RGB", (12, 12), "PNG"), None),
        (encoded("RGB", (9, 25), "JPEG"), None),
        (encoded("RGB", (30, 20), "JPEG", turned=True), None),
        (encoded("RGBA", (17, 20), "PNG"), None),
        (encoded("L", (17, 20), "PNG"), None),
        (encoded("CMYK", (17, 20), "JPEG"), None),
        (encoded("I;16", (17, 20), "PNG"), None),
        (encoded("I;16", (17, 20), "PNG"), 4095.0),
    ],
    ids=["plain", "the size", "jpeg", "turned", "alpha", "grey", "cmyk", "deep", "12 bits"],
)
def test_what_the_manifest_says_is_what_folders_are_decoded_by(file, white, form, tmp_path):
    (tmp_path / "image").write_bytes(file)
    channels, height, width = form
    said = decoding(channels, height, width, white)
    with ThreadPoolExecutor(1) as pool:
        decoded = decode([str(tmp_path / "image")], [0], Form(height, width, channels, white), pool)
    assert not decoded.failures
    assert torch.equal(decoded.pixels[0], by_manifest(file, said))


@pytest.mark.parametrize("size", [(31, 20), (20, 33), (300, 211), (16, 40), (12, 12)])
@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_resized_and_cropped_as_by_torchvision_in_a_folder_and_by_a_service(size, filter, tmp_path):
    """An image that already has the right size stays unchanged."""
    from torchvision import transforms

    file = encoded("RGB", size, "PNG")
    (tmp_path / "image").write_bytes(file)
    with ThreadPoolExecutor(1) as pool:
        decoded = decode([str(tmp_path / "image")], [0], Form(12, 12, 3, resize=16, filter=filter), pool).pixels
    said = decoding(3, 12, 12, resize=16, filter=filter)
    assert (said.shorter_side, said.filter) == (16, filter)
    assert "shorter side to 16" in said.resize
    assert filter.upper() in said.resize
    way = transforms.Compose([
        transforms.Resize(16, transforms.InterpolationMode(filter)), transforms.CenterCrop(12), transforms.PILToTensor(),
    ])  # fmt: skip
    image = Image.open(io.BytesIO(file))
    expected = way(image) if size != (12, 12) else transforms.functional.pil_to_tensor(image)
    assert torch.equal(decoded[0], expected)
    assert numpy.array_equal(decode_all([file], said, 10**6), decoded.numpy() / numpy.float32(255))


def test_the_filters_of_a_manifest_are_those_of_folders():
    assert set(get_args(Decoding.__annotations__["filter"])) == set(FILTERS)


def test_a_manifest_without_them_decodes_as_before_and_bad_ones_are_refused():
    said = json.loads(json.dumps(asdict(decoding(3, 12, 12))))
    del said["shorter_side"], said["filter"]
    load = TypeAdapter(Decoding).validate_python
    file = encoded("RGB", (31, 20), "PNG")
    expected = decode_all([file], decoding(3, 12, 12), 10**6)
    assert numpy.array_equal(decode_all([file], load(said), 10**6), expected)
    assert not numpy.array_equal(decode_all([file], load(said | {"shorter_side": 16}), 10**6), expected)
    with pytest.raises(ValidationError, match="filter"):
        load(said | {"filter": "cubic"})


def test_its_rules_are_those_of_folders_and_name_the_white():
    plain, scaled = decoding(3, 8, 8).rules, decoding(3, 8, 8, 4095.0).rules
    for key in ("orientation", "alpha", "frames", "cmyk", "deep colour"):
        assert plain[key] == scaled[key] == RULES[key]
    assert "65535 is white" in plain["16-bit grey"]
    assert scaled["scaled"] == "4095 is white, by scale=4095"
    specs = ("folder:scans(scale=4095)", "folder:scans", "digits")
    assert [decoding_of(spec) for spec in specs] == [{"scale": 4095}, {}, {}]


def test_it_names_the_formats_that_folders_take():
    formats = decoding(3, 8, 8).formats
    assert {"PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"} <= set(formats)
    assert not {"PDF", "EPS", "MPEG"} & set(formats)
    assert formats == sorted(set(endings().values()))
