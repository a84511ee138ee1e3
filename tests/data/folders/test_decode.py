"""Images that are not plain 8-bit ones, and files that are not images."""

import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.data.sets.folder import folder
from robustcls.images.formats import endings
from tests.helpers.drawn import fill

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.mark.parametrize(("name", "extra"), [("a.dcm", "dicom"), ("a.HEIC", "heic")])
def test_a_missing_extra_is_named(tmp_path, name, extra):
    if os.path.splitext(name)[1].lower() in endings():
        pytest.skip("its package is installed")
    root = fill(tmp_path)
    (root / "test" / "cat" / name).write_bytes(b"\0" * 200)
    assert f'pip install "robustcls[{extra}]"' in folder(str(root), "test").note


def test_a_folder_of_nothing_else_names_the_extra(tmp_path):
    if ".dcm" in endings():
        pytest.skip("pydicom is installed")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.dcm").write_bytes(b"\0" * 200)
    with pytest.raises(InputError, match=r"2 files passed over, such as .*robustcls\[dicom\]"):
        folder(str(tmp_path), "test")


def test_sixteen_bits_are_divided_by_257(tmp_path):
    root = fill(tmp_path, mode="L")
    values = np.array([[0, 257, 128 * 257], [65535, 1000, 128]], np.uint16).repeat(2, 0).repeat(2, 1)
    for ending in ("png", "tiff"):
        Image.fromarray(values).save(root / "test" / "cat" / f"deep.{ending}")
    (root / "test" / "cat" / "deep.pgm").write_bytes(b"P5 6 4 65535\n" + values.astype(">u2").tobytes())
    images = folder(str(root), "test", size=None)
    assert images.pixels.shape[1] == 1  # all images are grey
    root = tmp_path / "deep"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(values).save(root / split / name / "deep.png")
            (root / split / name / "deep.pgm").write_bytes(b"P5 6 4 65535\n" + values.astype(">u2").tobytes())
    images = folder(str(root), "test")
    assert images.pixels.shape == (4, 1, 4, 6)
    for pixels in images.pixels:
        assert torch.equal(pixels[0, ::2, ::2], torch.tensor([[0, 1, 128], [255, 4, 0]], dtype=torch.uint8))
    assert "4 images with 16-bit grey, 65535 is white (divided by 257), such as “test/cat/deep.pgm”" in images.note


def deep(root, kind, values, name="deep.tiff"):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            Image.fromarray(np.asarray(values, kind).reshape(2, 2)).save(root / split / label / name)
    return root


def test_twelve_bits_in_sixteen_are_said_and_scaled_on_request(tmp_path):
    root = deep(tmp_path, np.uint16, [0, 4095, 2048, 819])
    assert "their largest value is 4095" in folder(str(root), "test").note
    assert "folder:PATH(scale=4095)" in folder(str(root), "test").note
    images = folder(str(root), "test", scale=4095)
    assert images.pixels[0].flatten().tolist() == [0, 255, 128, 51]
    assert "4095 is white" in images.note


def test_float_pixels_are_shares_of_white(tmp_path):
    root = deep(tmp_path, np.float32, [0, 1, 0.5, 0.2])
    images = folder(str(root), "test")
    assert images.pixels[0].flatten().tolist() == [0, 255, 128, 51]
    assert "float pixels, 1 is white" in images.note


@pytest.mark.parametrize(
    ("kind", "values"), [(np.float32, [0, 255, 128, 51]), (np.float32, [-1, 1, 0, 0]), (np.int32, [0, 70000, 1, 2])]
)
def test_values_beyond_white_are_refused_not_skipped(tmp_path, kind, values):
    root = deep(tmp_path, kind, values)
    for skip in (False, True):
        with pytest.raises(InputError, match="say which value is white") as error:
            folder(str(root), "test", skip_corrupt=skip)
        assert "deep.tiff" in str(error.value)
    assert folder(str(root), "test", scale=255.0).pixels[0].flatten().tolist()[0] == 0


def test_a_scale_clips_and_says_so(tmp_path):
    root = deep(tmp_path, np.float32, [-5, 300, 128, 51])
    images = folder(str(root), "test", scale=255.0)
    assert images.pixels[0].flatten().tolist() == [0, 255, 128, 51]
    assert "4 images" not in images.note
    assert "2 images with values outside 0..255, clipped" in images.note
    with pytest.raises(InputError, match="scale=0"):
        folder(str(root), "test", scale=0.0)


def test_float_pixels_that_are_no_numbers_are_corrupt(tmp_path):
    root = deep(tmp_path, np.float32, [0, np.nan, 0.5, 0.2])
    with pytest.raises(InputError, match="not numbers"):
        folder(str(root), "test")


def test_what_is_ignored_is_counted(tmp_path):
    root = fill(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cat = root / "test" / "cat"
    Image.fromarray(rgb).save(cat / "turned.png", exif=exif)
    Image.fromarray(rgb).save(cat / "turned.jpg", exif=exif)
    Image.fromarray(np.dstack([rgb, np.full((6, 8), 9, np.uint8)])).save(cat / "clear.png")
    Image.fromarray(np.dstack([rgb, np.full((6, 8), 255, np.uint8)])).save(cat / "opaque.png")
    Image.fromarray(rgb).convert("CMYK").save(cat / "print.tiff")
    frames = [Image.fromarray(rgb // 2 + 60 * i) for i in range(2)]
    frames[0].save(cat / "stack.tiff", save_all=True, append_images=frames[1:])
    images = folder(str(root), "test")
    by_name = dict(zip(images.files, images.pixels.permute(0, 2, 3, 1).numpy(), strict=True))
    for name in ("turned", "clear", "opaque"):
        assert np.array_equal(by_name[f"test/cat/{name}.png"], rgb), name
    assert np.array_equal(by_name["test/cat/stack.tiff"], rgb // 2)
    assert "2 images with EXIF orientation, ignored as by torchvision, such as “test/cat/turned.jpg”" in images.note
    assert "1 image with transparency, dropped as by torchvision, such as “test/cat/clear.png”" in images.note
    assert "1 image with several pictures in a file, the first taken, such as “test/cat/stack.tiff”" in images.note
    assert "1 image with CMYK" in images.note


def test_a_tiff_that_is_turned_on_reading_is_said(tmp_path):
    root = fill(tmp_path)
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(root / "test" / "cat" / "turned.tiff", tiffinfo={0x0112: 6})
    with Image.open(root / "test" / "cat" / "turned.tiff") as image:
        expected = np.asarray(image)
    images = folder(str(root), "test")
    pixels = images.pixels[images.files.index("test/cat/turned.tiff")].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, expected)
    assert np.array_equal(pixels, np.rot90(rgb, -1))
    assert "1 image with an orientation by which Pillow turned it" in images.note
    assert "“test/cat/turned.tiff”" in images.note
    assert "ignored" not in images.note


@pytest.mark.parametrize("ending", ["icns", "ico"])
def test_formats_whose_mode_is_known_only_when_they_are_read(tmp_path, ending):
    root = fill(tmp_path, size=(32, 32))
    rgba = np.random.default_rng(0).integers(0, 255, (32, 32, 4), dtype=np.uint8)
    path = root / "test" / "cat" / f"icon.{ending}"
    if ending == "icns":  # an opaque picture of 32x32: three packed planes without a mask
        planes = b"".join(pack(rgba[:, :, i].tobytes()) for i in range(3))
        path.write_bytes(b"icns" + (16 + len(planes)).to_bytes(4) + b"il32" + (8 + len(planes)).to_bytes(4) + planes)
    else:
        Image.fromarray(rgba).save(path, sizes=[(32, 32)])
    images = folder(str(root), "test")
    pixels = images.pixels[images.files.index(f"test/cat/icon.{ending}")].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, rgba[:, :, :3])
    assert ("transparency" in images.note) == (ending == "ico")


def pack(plane):
    """Return the bytes as literal runs of an ICNS file."""
    return b"".join(bytes([len(run) - 1]) + run for run in (plane[i : i + 128] for i in range(0, len(plane), 128)))


def test_palette_and_one_bit_images(tmp_path):
    root = fill(tmp_path)
    bits = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(bool)
    Image.fromarray(bits).save(root / "test" / "cat" / "bits.png")
    palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8), "L").convert("P")
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    palette.save(root / "test" / "cat" / "palette.png")
    images = folder(str(root), "test")
    by_name = dict(zip(images.files, images.pixels, strict=True))
    assert np.array_equal(by_name["test/cat/bits.png"][0].numpy(), bits * 255)
    assert by_name["test/cat/palette.png"][:, 0, 3].tolist() == [3, 252, 7]
    assert images.note == ""


def test_deep_colour_is_said(tmp_path):
    header = bytes([0, 0, 0, 2, 0, 0, 0, 1, 16, 2, 0, 0, 0])

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    rows = b"\0" + np.array([[200 * 256, 3, 65535], [256, 512, 0]], ">u2").tobytes()
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "x.png").write_bytes(content)
    images = folder(str(tmp_path), "test")
    assert images.pixels[0].permute(1, 2, 0).tolist() == [[[200, 0, 255], [1, 2, 0]]]
    assert "2 images with 16-bit colour, the upper 8 bits taken" in images.note


def test_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    def write(path, values, photometric="MONOCHROME2", **fields):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            SecondaryCaptureImageStorage,
            "1.2",
        )
        one.Rows, one.Columns, one.SamplesPerPixel = 2, 2, 1
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.PhotometricInterpretation = photometric
        for name, value in fields.items():
            setattr(one, name, value)
        one.PixelData = np.asarray(values, np.uint16).tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, one, enforce_file_format=True)

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write(tmp_path / split / name / "a.dcm", [0, 4095, 2048, 819])
    write(tmp_path / "test" / "cat" / "b.dcm", [0, 4095, 2048, 819], "MONOCHROME1")
    write(
        tmp_path / "test" / "cat" / "c.DCM", [0, 1024, 1124, 4095],
        RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=50, WindowWidth=201,
    )  # fmt: skip
    (tmp_path / "test" / "cat" / "cut.dcm").write_bytes(b"\0" * 300)
    with pytest.raises(InputError, match="corrupt image .*cut.dcm"):
        folder(str(tmp_path), "test")
    images = folder(str(tmp_path), "test", skip_corrupt=True)
    assert images.pixels.shape == (4, 1, 2, 2)
    assert images.pixels[0].flatten().tolist() == [0, 255, 128, 51]
    assert images.pixels[1].flatten().tolist() == [255, 0, 127, 204]
    assert images.pixels[2].flatten().tolist()[::3] == [0, 255]
    assert 60 < images.pixels[2, 0, 0, 1] < 68  # 0 HU is a quarter of the window from -50 to 150
    assert "4 images with DICOM" in images.note
