"""Untrusted images are refused by their headers: in one line, without decoding a pixel, in bounded memory."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy
import pytest
from PIL import Image, ImageFile

from robustcls.core.errors import InputError
from robustcls.images.formats import formats
from robustcls.images.limits import FACTOR, FRAMES, HEADERS, INFLATED, MEMORY, PARTS, VALUES, check_header
from tests.helpers.image_files import chunk, damaged_files, exif, png, saved, sound_files, tiff

FORMATS = formats()
SOUND = sound_files()
MOST = 50_000_000
MUTATED = 2000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's warnings about damaged files

MEASURE = """
import json, pathlib, sys, warnings
from robustcls.images.formats import formats
from robustcls.images.limits import check_header
from robustcls.core.errors import InputError

def resident(which):  # of this process alone: getrusage counts what its parent had
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(which)).split()[1])

def grown(function):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = resident("VmRSS")
    return function(), resident("VmHWM") - before

def check(content):
    try:
        return check_header(content, max_pixels=50_000_000, formats=known)
    except InputError as error:
        return str(error)

warnings.simplefilter("ignore")
known, said, folder = formats(), {}, pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("sound.*")) + sorted(folder.glob("*")):  # first what imports Pillow's modules
    content = path.read_bytes()
    said[path.name] = *grown(lambda: check(content)), len(content)
said["control"] = "", grown(lambda: len(bytearray(b"a") * 100_000_000))[1], 0
assert "torch" not in sys.modules
print(json.dumps(said))
"""


def outcome(content, max_pixels=MOST):
    """Return the format, or the reason of the refusal; other exceptions propagate."""
    try:
        return check_header(bytes(content), max_pixels=max_pixels, formats=FORMATS)
    except InputError as error:
        return str(error)


def refusal(content, **options):
    with pytest.raises(InputError) as caught:
        check_header(content, **{"max_pixels": MOST, "formats": FORMATS} | options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    return str(caught.value)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_is_named_and_no_pixel_of_it_decoded(name, monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    for kind in ("JpegImagePlugin.JpegImageFile", "GifImagePlugin.GifImageFile", "WebPImagePlugin.WebPImageFile",
                 "TiffImagePlugin.TiffImageFile", "PngImagePlugin.PngImageFile"):  # fmt: skip
        monkeypatch.setattr(f"PIL.{kind}.load", load)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert check_header(SOUND[name], max_pixels=64 * 50, formats=FORMATS) == name.partition("-")[0].upper()


@pytest.mark.parametrize("name", ["jpeg-420", "png-rgb", "webp-lossy", "webp-lossless", "webp-alpha", "webp-animated",
                                  "gif-animated", "bmp-rgb", "tiff-raw", "tiff-tiled"])  # fmt: skip
def test_the_number_of_pixels_is_held_to_the_pixel(name):
    content = SOUND[f"{name}-31x17"]
    check_header(content, max_pixels=31 * 17, formats=FORMATS)
    said = refusal(content, max_pixels=31 * 17 - 1)
    assert said == "an image of 31x17 pixels: at most 526 are taken"


def huge_png(side=19000):
    """Return a valid file whose pixels are all zero."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    body = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def hostile_files():
    """Return, by name, a file and words of its refusal, or None if it is accepted."""
    plain = SOUND["png-rgb-24x24"]
    bomb = zlib.compress(bytes(50_000_000), 9)
    head, rest = plain[:33], plain[33:]
    text = b"k\0\0" + bomb
    megabyte = zlib.compress(b"a" * 1_000_000, 9)
    jpeg = SOUND["jpeg-444-24x24"]
    small = SOUND["gif-24x24"]
    frame = SOUND["gif-grey-24x24"]
    picture = frame[13 + 768 : -1] if frame[10] & 128 else frame[13:-1]
    tag = struct.pack("<HHLL", 60000, 1, 900_000, 0)
    tags = b"".join(struct.pack("<HHLL", 30000 + i, 1, 60_000, 0) for i in range(5000))
    directory = b"II*\0" + struct.pack("<LH", 8, 5000) + tags + bytes(4)
    block = b"Exif\0\0" + directory
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    pages = b"".join(struct.pack("<HHHLLL", 1, 256, 4, 1, 24, 8 + 18 * (i + 1)) for i in range(50_000))
    long_text = b"x\0\0\0\0" + "\U0001f600".encode() + b"a" * 12_000_000
    canvas = b"VP8X" + struct.pack("<L", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    lossless = SOUND["webp-lossless-24x24"]
    sizes = {256: (4, (24,)), 257: (4, (VALUES,)), 258: (3, (8,)), 262: (3, (1,))}
    one_tag = b"II*\0" + struct.pack("<LHHHLLL", 8, 1, 60000, 1, 12_000_000, 26, 0) + bytes(12_000_000)
    parts = [b"Exif\0\0" + one_tag[at : at + 60_000] for at in range(0, len(one_tag), 60_000)]
    long_exif = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    many = b"".join(b"ANMF" + struct.pack("<L", 16) + bytes(16) for _ in range(100_000))
    return {
        "huge.png": (huge_png(), "19000x19000"),
        "text-bombs.png": (head + chunk(b"zTXt", text) * 60 + rest, "compressed texts"),
        "one-text-bomb.png": (head + chunk(b"zTXt", text) + rest, "a damaged PNG"),
        "one-international-bomb.png": (head + chunk(b"iTXt", b"k\0\1\0\0\0" + bomb) + rest, "a damaged PNG"),
        "some-texts.png": (head + b"".join(chunk(b"zTXt", b"k%d\0\0" % i + megabyte) for i in range(INFLATED)) + rest, None),
        "international-bombs.png": (head + chunk(b"iTXt", b"k\0\1\0\0\0" + bomb) * 60 + rest, "compressed texts"),
        "plain-international.png": (head + chunk(b"iTXt", b"k\0\0\0\0\0text") * 60 + rest, None),
        "profile-bomb.png": (head + chunk(b"iCCP", text) + rest, "a damaged PNG"),
        "long-text.png": (head + chunk(b"iTXt", long_text) + rest, "bytes of texts"),
        "tiny-texts.png": (head + b"".join(chunk(b"tEXt", b"%d\0a" % i) for i in range(200_000)) + rest, "no pixels"),
        "tiny-pieces.png": (head + chunk(b"IDAT", b"") * 400_000 + rest, "chunks of pixels"),
        "exif-bomb.png": (head + chunk(b"eXIf", directory) + rest, None),
        "huge.bmp": (b"BM" + bytes(12) + struct.pack("<LllHHLLllLL", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0), "30000x30000"),
        "segments.jpeg": (jpeg[:2] + b"\xff\xe3\0\2" * 2_000_000 + jpeg[2:], "segments"),
        "junk.jpeg": (jpeg[:20] + b"\xff" * 8_000_000 + jpeg[20:], "segments"),
        "exif-bomb.jpeg": (jpeg[:2] + segment + jpeg[2:], None),
        "huge.gif": (small[:6] + struct.pack("<HH", 60000, 60000) + small[10:], "60000x60000"),
        "frames.gif": (frame[:-1] + picture * 20_000 + b";", "frames"),
        "comment.gif": (small[:13 + 192] + b"!\xfe" + b"\1a" * 6_000_000 + b"\0" + small[13 + 192 :], "blocks"),
        "junk.gif": (small[:13 + 192] + b"\7" * 6_000_000 + small[13 + 192 :], "blocks"),
        "huge.tiff": (tiff({256: (4, (70000,)), 257: (4, (70000,))}), "70000x70000"),
        "huge-tile.tiff": (tiff({256: (4, (24,)), 257: (4, (24,)), 322: (4, (40000,)), 323: (4, (40000,))}), "40000x40000"),
        "tags.tiff": (directory + bytes(60_000), "tags"),
        "big-tag.tiff": (b"II*\0" + struct.pack("<LH", 8, 4000) + tag * 4000 + bytes(1_000_000), "damaged TIFF"),
        "strips.tiff": (tiff({256: (4, (24,)), 257: (4, (24,)), 273: (4, (8,) * 1_000_000)}), "values of a tag"),
        "pages.tiff": (b"II*\0" + struct.pack("<L", 8) + pages + bytes(4), "pictures"),
        "canvas.webp": (b"RIFF" + struct.pack("<L", 22 + len(lossless)) + b"WEBP" + canvas + lossless[12:], "16383x16383"),
        "most-text.png": (head + chunk(b"iTXt", long_text[:4_000_000]) + rest, None),
        "most-texts.png": (head + b"".join(chunk(b"tEXt", b"%d\0" % i + b"a" * 900) for i in range(PARTS - 2)) + rest, None),
        "most-segments.jpeg": (jpeg[:2] + (b"\xff\xe3\x10\2" + bytes(4096)) * (PARTS - 20) + jpeg[2:], None),
        "most-exif.jpeg": (jpeg[:2] + long_exif + jpeg[20:], None),
        "most-frames.gif": (frame[:-1] + picture * (FRAMES - 1) + b";", None),
        "most-strips.tiff": (
            tiff(sizes | {273: (4, (8,) * VALUES), 278: (4, (1,))}),
            None,
        ),
        "frames.webp": (b"RIFF" + struct.pack("<L", 4 + len(many)) + b"WEBP" + many, "chunks"),
    }  # fmt: skip


HOSTILE = hostile_files()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_blow_up_is_refused_for_its_reason(name):
    content, words = HOSTILE[name]
    if words is None:
        assert check_header(content, max_pixels=MOST, formats=FORMATS) == name.rpartition(".")[2].upper()
    else:
        assert words in refusal(content)


def test_a_small_file_of_a_huge_image_is_sound_but_for_its_size(monkeypatch):
    content = huge_png()
    assert len(content) < 100_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert check_header(content, max_pixels=19000**2, formats=FORMATS) == "PNG"
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (19000, 19000)


def test_what_pillow_warns_of_is_refused_whatever_is_allowed():
    content = huge_png()
    assert refusal(content, max_pixels=10**9) == "an image of 19000x19000 pixels: at most 89478485 are taken"


def measured(folder):
    """Return, for each file of the folder, the outcome, the peak growth of the process in bytes, and the size of the file."""
    if not pathlib.Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    command = [sys.executable, "-c", MEASURE, str(folder)]
    # Freed blocks go back to the system, so that the next file cannot use them unseen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said = json.loads(ran.stdout)
    assert said.pop("control")[1] > 90_000_000  # the measurement works
    return said


def test_memory_stays_within_the_bound(tmp_path):
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    for kind in ("jpeg-420", "png-rgb", "gif", "bmp-rgb", "tiff-raw", "webp-lossy"):
        (tmp_path / f"sound.{kind}").write_bytes(SOUND[f"{kind}-24x24"])
    said = measured(tmp_path)
    assert len(said) == len(HOSTILE) + 6
    for name, (found, grown, size) in said.items():
        assert grown <= MEMORY + FACTOR * size, (name, found)


def test_two_thousand_mutated_files_are_taken_or_refused_in_bounded_memory(tmp_path):
    """Bytes are changed, removed and inserted, most of them near the start, where headers are."""
    draws = numpy.random.default_rng(0)
    seeds = [content for name, content in [*SOUND.items(), *damaged_files().items()] if content]
    seeds += [
        HOSTILE[name][0] for name in ("exif-bomb.jpeg", "exif-bomb.png", "canvas.webp", "huge-tile.tiff", "tags.tiff")
    ]
    refused = 0
    sample = []
    for _ in range(MUTATED):
        content = bytearray(seeds[int(draws.integers(len(seeds)))])
        for _change in range(int(draws.integers(1, 6))):
            at = int(len(content) * draws.random() ** 3)
            match int(draws.integers(4)):
                case 0:
                    content[at : at + 1] = bytes([int(draws.integers(256))])
                case 1:
                    content[at : at + 4] = draws.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
                case 2:
                    del content[at : at + int(draws.integers(1, 9))]
                case 3:
                    other = seeds[int(draws.integers(len(seeds)))]
                    content[at:at] = other[: int(draws.integers(1, 200))]
        sample.append(bytes(content))
        said = outcome(content, max_pixels=10**6)
        assert "\n" not in said
        assert len(said) < 200
        refused += said not in HEADERS
    assert MUTATED / 10 < refused < MUTATED * 9 / 10
    for number, content in enumerate(sample):
        (tmp_path / f"{number:04}").write_bytes(content)
    said = measured(tmp_path)
    assert len(said) == MUTATED
    for name, (found, grown, size) in said.items():
        assert grown <= MEMORY + FACTOR * size, (name, found)


@pytest.mark.parametrize("name", [name for name, content in damaged_files().items() if content])
def test_a_damaged_header_is_refused_in_a_line(name):
    content = damaged_files()[name]
    if "-first2" in name or name in ("text", "zeros"):
        assert "send" in refusal(content[: len(content) * 2 // 100] if "-first20" in name else content)
    else:
        said = outcome(content)
        assert said in HEADERS or "send" in said


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "no bytes: send one of BMP, GIF, JPEG, PNG, TIFF, WEBP"),
        (b"GIF", {}, "no image of a known format: send one of"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", {"formats": ["EPS", "PNG"]}, "no image of a known format: send one of PNG"),
        (SOUND["gif-24x24"], {"formats": ["PNG", "JPEG"]}, "a GIF, which is not taken: send one of JPEG, PNG"),
        (SOUND["gif-24x24"], {"formats": []}, "this model takes no encoded images: send pixels"),
        (png(numpy.zeros((1, 1, 3), numpy.uint8), 8, 2).replace(struct.pack(">II", 1, 1), bytes(8), 1), {}, "0x0"),
        (SOUND["jpeg-444-24x24"][:100], {}, "a damaged JPEG"),
        (SOUND["tiff-raw-24x24"][:10], {}, "a damaged TIFF"),
        (b"II*\0\xff\xff\xff\x7f", {}, "a damaged TIFF"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIHDR", {}, "a damaged PNG"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", {}, "a damaged WEBP"),
        (b"BM" + b"\1" * 60, {}, "a damaged BMP|pixels"),
        (bytes(128) + b"DICM", {"formats": ["DICOM"]}, "DICOM"),
    ],
)
def test_it_says_what_was_found_and_what_is_allowed(content, options, words):
    said = refusal(content, **options)
    assert any(word in said for word in words.split("|")), said


def test_every_format_that_decodes_on_opening_is_left_out():
    """Pillow decodes an icon when it opens the file, so icons are refused even if their format is allowed."""
    icon = saved(Image.new("RGB", (16, 16)), "ICO")
    assert "ICO" in FORMATS
    assert "known format" in refusal(icon, formats=["ICO", "PNG"])


def test_what_is_usual_is_within_the_limits():
    """Usual files have long EXIF, a profile, texts, an animation, many strips, or several pictures."""
    image = Image.new("RGB", (40, 300))
    block = exif(6)
    block[0x9286] = "a comment " * 500
    profile = bytes(range(256)) * 2000
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert (
            check_header(saved(image, kind, exif=block, icc_profile=profile), max_pixels=MOST, formats=FORMATS) == kind
        )
    frames = [Image.effect_noise((20, 20), 50 + n) for n in range(60)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        moving = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert check_header(moving, max_pixels=MOST, formats=FORMATS) == kind
    strips = saved(image, "TIFF", tiffinfo={278: 1}, compression="raw")
    assert check_header(strips, max_pixels=MOST, formats=FORMATS) == "TIFF"
    assert min(PARTS, FRAMES, VALUES) >= 1000


def test_dicom_is_recognised_by_its_magic_and_counted_with_its_frames(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    def written(syntax=pydicom.uid.ExplicitVRLittleEndian, **values):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2", "1.2.3"
        dataset = FileDataset(str(tmp_path / "x.dcm"), {}, file_meta=meta, preamble=bytes(128))
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
        return (tmp_path / "x.dcm").read_bytes()

    size = {"Rows": 20, "Columns": 30}
    assert check_header(written(**size), max_pixels=600, formats=["DICOM"]) == "DICOM"
    assert "30x80" in refusal(written(**size, NumberOfFrames=4), max_pixels=600, formats=["DICOM"])
    assert "0 pixels" in refusal(written(Rows=0, Columns=30), formats=["DICOM"])
    assert "damaged DICOM" in refusal(written(Rows=20), formats=["DICOM"])
    assert "deflated" in refusal(written(pydicom.uid.DeflatedExplicitVRLittleEndian, **size), formats=["DICOM"])
    assert "not taken" in refusal(written(**size), formats=["PNG"])
