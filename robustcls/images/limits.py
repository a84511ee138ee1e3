"""Rejects untrusted images by their headers, before any pixel is decoded.

When Pillow opens a file, it reads more than the size: texts, profiles, tags, frames. These are counted here first, so that a
check needs at most MEMORY plus FACTOR times the size of the file, and a time that is proportional to the size of the file.
"""

import importlib.util
import io
import struct
from collections.abc import Callable, Collection
from typing import NamedTuple

from PIL import Image

from robustcls.core.errors import InputError

# Upper limits
MEMORY, FACTOR = 32 << 20, 4  # memory of a check: bytes, plus a multiple of the file size
PARTS = 4096  # chunks, segments or tags without pixels
PIECES = 1 << 18  # pieces of pixel data, in formats that store it in pieces
BESIDES = 4 << 20  # bytes of a PNG without pixels
INFLATED = 8  # compressed texts and profiles of a PNG; Pillow inflates up to a megabyte of each
FRAMES = 1000
VALUES = 1 << 16  # values of a TIFF tag; Pillow makes a Python object of each

NO_OBJECTS = (1, 2, 7)  # types of TIFF tags whose values stay bytes
FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers of segments that begin with the size
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the DICOM transfer syntax whose header is compressed as a whole

Size = tuple[int, int]  # width, height


def check_header(content: bytes, *, max_pixels: int, formats: Collection[str]) -> str:
    """Check by its header whether an image may be decoded. Return its format. No pixel is decoded.

    Args:
        content: of an untrusted file.
        max_pixels: the most that width times height may be, for DICOM times the number of frames.
        formats: the allowed formats, by Pillow's names, and DICOM; formats that are not in HEADERS are never allowed.

    Returns:
        The name of the format, for `decode_image(..., formats=[name])`.

    Raises:
        InputError: in one line, what was found and what is allowed.
    """
    allowed = sorted(name for name in HEADERS if name in formats and (name != "DICOM" or _has_pydicom()))
    if not formats:
        raise InputError("this model takes no encoded images: send pixels")
    name = next((name for name in allowed if HEADERS[name].recognise(content)), None)
    if name is None:
        which = f"one of {', '.join(allowed)}" if allowed else "pixels"
        raise InputError(f"{_what(content)}: send {which}")
    try:
        early = HEADERS[name].examine(content)
        if early is not None:
            _check_pixels(early, max_pixels)
        if name != "DICOM":
            with Image.open(io.BytesIO(content), formats=[name]) as image:
                _check_pixels(image.size, max_pixels)
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(max_pixels) from None
    except Exception as error:  # a damaged header can make Pillow or pydicom raise anything
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise InputError(f"a damaged {name}{f' ({reason:.80})' if reason else ''}: send a whole file") from None
    return name


def _check_pixels(size: Size, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"an image of {width}x{height} pixels: send one that has some")
    if width * height > min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels):  # Pillow warns above its own limit
        raise _too_large(max_pixels, f" of {width}x{height}")


def _too_large(max_pixels: int, found: str = "") -> InputError:
    most = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    return InputError(f"an image{found or ' of far more'} pixels: at most {most} are taken")


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise InputError(f"an image with more than {most} {what}: save it again without them")


def _what(content: bytes) -> str:
    if not content:
        return "no bytes"
    found = next((name for name, header in HEADERS.items() if header.recognise(content)), None)
    return f"a {found}, which is not taken" if found else "no image of a known format"


def _has_pydicom() -> bool:
    return importlib.util.find_spec("pydicom") is not None


def _examine_png(content: bytes) -> Size | None:
    at, others, pieces, inflated, besides = 8, 0, 0, 0, 0
    size = None
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IHDR" and at + 16 <= len(content):
            size = struct.unpack_from(">II", content, at + 8)
        if kind == b"IEND":
            break
        if kind in (b"IDAT", b"fdAT"):
            pieces += 1
        else:
            others, besides = others + 1, besides + length
            inflated += kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_compressed(content[at + 8 : at + 128]))
        _check_count("chunks that hold no pixels", others, PARTS)
        _check_count("chunks of pixels", pieces, PIECES)
        _check_count("compressed texts or profiles", inflated, INFLATED)
        at += 12 + length
    _check_count("bytes of texts and profiles", min(besides, len(content)), BESIDES)
    return size


def _is_compressed(text: bytes) -> bool:
    """Whether an iTXt chunk is compressed, from its beginning: a keyword of at most 79 bytes, a zero byte, the flag."""
    end = text.find(b"\0") + 1
    return not end or text[end : end + 1] != b"\0"


def _examine_bmp(content: bytes) -> Size | None:
    if len(content) < 26:
        return None
    width, height = struct.unpack_from("<HH" if content[14] == 12 else "<ll", content, 18)
    return width, abs(height)  # a negative height means that rows are stored from the top


def _examine_jpeg(content: bytes) -> Size | None:
    """Follow Pillow's search for the start of the scan, which reads the bytes between segments one by one."""
    at, parts, size = 2, 0, None
    while at + 4 <= len(content):
        _check_count("segments and bytes between them before its pixels", parts, PARTS)
        parts += 1
        marker = content[at + 1]
        if content[at] != 0xFF or marker in (0x00, 0xFF):
            at += 1 if marker == 0xFF or content[at] != 0xFF else 2
        elif marker == 0xDA:
            break
        elif marker in (0x01, 0xD8, 0xD9) or 0xD0 <= marker <= 0xD7:  # without a length
            at += 2
        else:
            if marker in FRAME_MARKERS and at + 9 <= len(content):
                height, width = struct.unpack_from(">HH", content, at + 5)
                size = width, height
            at += 2 + struct.unpack_from(">H", content, at + 2)[0]
    return size


def _examine_gif(content: bytes) -> Size | None:
    if len(content) < 13:
        return None
    at, parts, pieces, frames = 13 + _palette(content[10]), 0, 0, 0
    while at < len(content):
        _check_count("frames", frames, FRAMES)
        _check_count("blocks that hold no pixels", parts, PARTS)
        kind = content[at : at + 1]
        if kind == b"!":
            parts, at = parts + 1, at + 2
        elif kind == b"," and at + 10 <= len(content):
            frames, at = frames + 1, at + 11 + _palette(content[at + 9])
        elif kind == b";":
            break
        else:  # Pillow looks for the next block byte by byte
            parts, at = parts + 1, at + 1
            continue
        while at < len(content) and content[at]:
            pieces, at = pieces + 1, at + 1 + content[at]
            _check_count("blocks", pieces, PIECES)
        at += 1
    return struct.unpack_from("<HH", content, 6)


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _examine_tiff(content: bytes) -> Size | None:
    order, big = "<" if content[:1] == b"I" else ">", content[2] == 43
    offset, number, entry = (8, order + "Q", order + "HHQ8s") if big else (4, order + "H", order + "HHL4s")
    link = order + ("Q" if big else "L")
    seen: set[int] = set()
    parts = 0
    largest: Size | None = None
    at = struct.unpack_from(link, content, offset)[0]
    while at and at not in seen and at + struct.calcsize(number) <= len(content):
        seen.add(at)
        _check_count("pictures", len(seen), FRAMES)
        count = struct.unpack_from(number, content, at)[0]
        at += struct.calcsize(number)
        sides: dict[int, int] = {}
        for _ in range(count):
            if at + struct.calcsize(entry) > len(content):
                break
            tag, kind, values, data = struct.unpack_from(entry, content, at)
            at, parts = at + struct.calcsize(entry), parts + 1
            _check_count("tags", parts, PARTS)
            if kind not in NO_OBJECTS:
                _check_count("values of a tag", values, VALUES)
            if tag in (256, 257, 322, 323) and values == 1:
                sides[tag] = struct.unpack_from(order + ("H" if kind == 3 else "L"), data)[0]
        for width, height in ((256, 257), (322, 323)):  # tags of the picture, and of a tile
            if width in sides and height in sides:
                size = sides[width], sides[height]
                largest = max(largest or size, size, key=lambda size: size[0] * size[1])
        if at + struct.calcsize(link) > len(content):
            break
        at = struct.unpack_from(link, content, at)[0]
    return largest


def _examine_webp(content: bytes) -> Size | None:
    at, parts, size = 12, 0, None
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sL", content, at)
        body = content[at + 8 : at + 18]
        if size is None and len(body) == 10:
            if kind == b"VP8X":
                size = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
            elif kind == b"VP8L":
                bits = int.from_bytes(body[1:5], "little")
                size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            elif kind == b"VP8 ":
                size = int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
        parts += 1
        _check_count("chunks", parts, FRAMES)
        at += 8 + length + (length & 1)
    return size


def _examine_dicom(content: bytes) -> Size:
    import pydicom

    if DEFLATED in content:
        raise InputError("a deflated DICOM: send it without compression of the header")
    tags = ["Rows", "Columns", "NumberOfFrames"]
    dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=tags)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    return int(dataset.Columns), int(dataset.Rows) * max(1, frames)


class _Header(NamedTuple):
    """How to check a format.

    recognise: whether content has this format, by its first bytes. examine: raise InputError above a limit; return the size, if
    it was found.
    """

    recognise: Callable[[bytes], bool]
    examine: Callable[[bytes], Size | None]


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda content: content.startswith(magic)


HEADERS = {  # formats whose headers are checked here; other formats are rejected, even if Pillow can read them
    "BMP": _Header(_starts(b"BM"), _examine_bmp),
    "DICOM": _Header(lambda content: content[128:132] == b"DICM", _examine_dicom),
    "GIF": _Header(_starts(b"GIF87a", b"GIF89a"), _examine_gif),
    "JPEG": _Header(_starts(b"\xff\xd8\xff"), _examine_jpeg),
    "PNG": _Header(_starts(b"\x89PNG\r\n\x1a\n"), _examine_png),
    "TIFF": _Header(_starts(b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0"), _examine_tiff),
    "WEBP": _Header(lambda content: content[:4] == b"RIFF" and content[8:12] == b"WEBP", _examine_webp),
}
