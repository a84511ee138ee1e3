"""An image in a request gives the same pixels as the same file in a folder, byte for byte, or is refused in both."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.data.folders.decode import _decode_jpeg, decode
from robustcls.images.decode import Form, decode_image
from robustcls.images.formats import formats
from robustcls.images.limits import check_header
from tests.helpers.image_files import SIZES, damaged_files, picture, saved, sound_files

SOUND, DAMAGED = sound_files(), damaged_files()
FORMATS = formats()
UNSCALED = ("tiff-float-too-large", "tiff-signed")  # which value is white is unknown
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's warnings about damaged files


def sent(content, form):
    """Return the pixels that a service decodes, or None if it refuses the file."""
    try:
        kind = check_header(content, max_pixels=10**6, formats=FORMATS)
        return decode_image(content, form, {}, formats=[kind])
    except Exception:
        return None


def in_folder(content, form, path):
    path.write_bytes(content)
    try:
        with ThreadPoolExecutor(1) as pool:
            decoded = decode([str(path)], [0], form, pool)
    except InputError:
        return None
    return None if decoded.failures else decoded.pixels[0].numpy()


def forms(content):
    """Return the size of the image itself, which needs no resizing, and another size, each in colour and grey."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(io.BytesIO(content)).size
    except Exception:
        width, height = SIZES[0]
    return [Form(*size, channels) for size in ((height, width), (20, 28)) for channels in (3, 1)]


def test_there_are_two_hundred_files_of_all_kinds():
    assert len(SOUND) >= 200
    assert len(DAMAGED) >= 50
    kinds = {check_header(content, max_pixels=10**6, formats=FORMATS) for content in SOUND.values()}
    assert kinds == {"BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_gives_the_pixels_of_a_folder(name, tmp_path):
    for form in forms(SOUND[name]):
        expected, found = in_folder(SOUND[name], form, tmp_path / "image"), sent(SOUND[name], form)
        assert (expected is None) == (found is None) == name.startswith(UNSCALED), form
        assert expected is None or numpy.array_equal(found, expected), form


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gives_the_same_pixels_or_is_refused_in_both(name, tmp_path):
    for form in forms(DAMAGED[name]):
        expected, found = in_folder(DAMAGED[name], form, tmp_path / "image"), sent(DAMAGED[name], form)
        assert (expected is None) == (found is None), form
        assert expected is None or numpy.array_equal(found, expected), form


def test_torchvisions_jpeg_decoder_gives_the_pixels_of_pillow_or_none():
    """This covers JPEGs of many sizes and options, and truncated or overwritten ones, whose damage Pillow may not notice."""
    draws, compared = numpy.random.default_rng(0), 0
    files = [content for name, content in SOUND.items() if name.startswith("jpeg")]
    for seed in range(40):
        width, height = map(int, draws.integers(1, 90, 2))
        image = Image.fromarray(picture(width, height, 3, seed))
        quality, subsampling = int(draws.integers(1, 100)), int(draws.integers(0, 3))
        files.append(
            saved(image, "JPEG", quality=quality, subsampling=subsampling, progressive=seed % 2, optimize=seed % 3 == 0)
        )
    for content in list(files):
        changed = bytearray(content)
        changed[int(draws.integers(3, len(content)))] = int(draws.integers(0, 256))
        files += [content[: int(draws.integers(4, len(content)))], content[:-2], bytes(changed)]
    for content in files:
        quick = _decode_jpeg(content)
        if quick is None or quick.shape[0] not in (1, 3) or quick.size > 10**6:
            continue
        compared += 1
        channels, height, width = quick.shape
        assert numpy.array_equal(quick, decode_image(content, Form(height, width, channels), {}))
    assert compared > len(files) / 4


def test_a_jpeg_without_a_marker_after_its_first_is_refused_in_a_folder_too(tmp_path):
    content = bytearray(SOUND["jpeg-444-24x24"])
    content[2] = 0x8F
    form = Form(24, 24, 3)
    assert sent(bytes(content), form) is None
    assert in_folder(bytes(content), form, tmp_path / "image") is None
