"""Image files of all formats, valid and damaged, as `(name, content)`."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy
from PIL import Image

SIZES = ((24, 24), (31, 17), (50, 64))  # width, height
ORIENTATION = 0x0112
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def picture(width: int, height: int, bands: int = 3, seed: int = 0) -> numpy.ndarray:
    """Return uint8 H,W,bands: smooth ramps with noise, so that subsampling and filters make a difference."""
    rows, columns = numpy.mgrid[0:height, 0:width]
    ramps = [
        rows * 255 // height,
        columns * 255 // width,
        (rows * 7 + columns * 3) % 256,
        255 - columns * 200 // width,
    ]
    noise = numpy.random.default_rng(seed).integers(-20, 21, (height, width, bands))
    return (numpy.stack(ramps[:bands], 2) + noise).clip(0, 255).astype(numpy.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: numpy.ndarray, bits: int, colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """Return a PNG of any bit depth; Pillow cannot write them all.

    values: H,W,bands, each below 2**bits. colour: the PNG colour type.
    """
    height, width = values.shape[:2]
    raw = b""
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        for row in values[top::down, left::across]:
            if not row.size:
                continue
            flat = row.reshape(-1)
            if bits == 16:
                raw += b"\0" + flat.astype(">u2").tobytes()
            else:
                single = numpy.unpackbits(flat.astype(numpy.uint8)[:, None], axis=1)[:, 8 - bits :]
                raw += b"\0" + numpy.packbits(single.reshape(-1)).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + body + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, tuple[int, ...]]], data: bytes = b"", order: str = "<") -> bytes:
    """Return a TIFF of one picture. tags: type (3 SHORT, 4 LONG) and values; data comes first, at offset 8."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8 + len(data))
    entries, out = b"", b""
    after = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'L'}", *values)
        if len(packed) > 4:
            packed, out = struct.pack(order + "L", after + len(out)), out + packed
        entries += struct.pack(order + "HHL", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return head + data + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + out


def tiled_tiff(values: numpy.ndarray, side: int = 16) -> bytes:
    """Return a tiled TIFF of values, uint8 H,W,3."""
    height, width = values.shape[:2]
    padded = numpy.zeros((-height % side + height, -width % side + width, 3), numpy.uint8)
    padded[:height, :width] = values
    tiles = [
        padded[top : top + side, left : left + side].tobytes()
        for top in range(0, padded.shape[0], side)
        for left in range(0, padded.shape[1], side)
    ]
    size = side * side * 3
    return tiff(
        {
            256: (4, (width,)), 257: (4, (height,)), 258: (3, (8, 8, 8)), 259: (3, (1,)), 262: (3, (2,)), 277: (3, (3,)),
            322: (3, (side,)), 323: (3, (side,)), 324: (4, tuple(8 + size * i for i in range(len(tiles)))),
            325: (4, (size,) * len(tiles)),
        },
        b"".join(tiles),
    )  # fmt: skip


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block


def _jpegs(colour: Image.Image, grey: Image.Image) -> Iterator[tuple[str, bytes]]:
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"jpeg-{name}", saved(colour, "JPEG", subsampling=subsampling, quality=90)
        yield f"jpeg-{name}-progressive", saved(colour, "JPEG", subsampling=subsampling, progressive=True)
    yield "jpeg-poor", saved(colour, "JPEG", quality=5)
    yield "jpeg-restarts", saved(colour, "JPEG", restart_marker_blocks=2)
    yield "jpeg-rgb", saved(colour, "JPEG", keep_rgb=True)
    yield "jpeg-grey", saved(grey, "JPEG")
    yield "jpeg-grey-progressive", saved(grey, "JPEG", progressive=True)
    yield "jpeg-cmyk", saved(colour.convert("CMYK"), "JPEG")
    for orientation in range(1, 9):
        yield f"jpeg-exif{orientation}", saved(colour, "JPEG", exif=exif(orientation))


def _pngs(values: numpy.ndarray, colour: Image.Image, grey: Image.Image) -> Iterator[tuple[str, bytes]]:
    one = values[..., :1]
    palette = chunk(b"PLTE", numpy.random.default_rng(1).integers(0, 256, 768, numpy.uint8).tobytes())
    for bits in (1, 2, 4, 8):
        shallow = one >> (8 - bits)
        few = chunk(b"PLTE", palette[8 : 8 + 3 * 2**bits])
        yield f"png-grey{bits}", png(shallow, bits, 0)
        yield f"png-palette{bits}", png(shallow, bits, 3, few)
    deep = values.astype(numpy.uint16) * 257
    yield "png-grey16", png(deep[..., :1], 16, 0)
    yield "png-rgb16", png(deep[..., :3], 16, 2)
    yield "png-rgba16", png(deep, 16, 6)
    yield "png-greyalpha", png(values[..., :2], 8, 4)
    yield "png-rgb", png(values[..., :3], 8, 2)
    yield "png-rgba", png(values, 8, 6)
    yield "png-opaque", png(numpy.dstack([values[..., :3], numpy.full_like(one, 255)]), 8, 6)
    yield "png-interlaced-rgb", png(values[..., :3], 8, 2, interlaced=True)
    yield "png-interlaced-grey1", png(one >> 7, 1, 0, interlaced=True)
    yield "png-interlaced-palette4", png(one >> 4, 4, 3, chunk(b"PLTE", palette[8:56]), interlaced=True)
    yield "png-trns-grey", png(one, 8, 0, chunk(b"tRNS", struct.pack(">H", int(one[0, 0, 0]))))
    yield "png-trns-rgb", png(values[..., :3], 8, 2, chunk(b"tRNS", struct.pack(">3H", *map(int, values[0, 0, :3]))))
    yield "png-trns-palette", png(one, 8, 3, palette, chunk(b"tRNS", bytes(range(256))))
    yield "png-filtered", saved(colour, "PNG", optimize=True)
    yield "png-exif6", saved(colour, "PNG", exif=exif(6))
    yield "png-animated", saved(colour, "PNG", save_all=True, append_images=[colour.rotate(90), colour.rotate(180)])


def _others(values: numpy.ndarray, colour: Image.Image, grey: Image.Image) -> Iterator[tuple[str, bytes]]:
    clear, more = Image.fromarray(values), [colour.rotate(90), colour.rotate(180)]
    yield "webp-lossy", saved(colour, "WEBP", quality=60)
    yield "webp-lossless", saved(colour, "WEBP", lossless=True)
    yield "webp-alpha", saved(clear, "WEBP")
    yield "webp-alpha-lossless", saved(clear, "WEBP", lossless=True)
    yield "webp-exif6", saved(colour, "WEBP", exif=exif(6))
    yield "webp-animated", saved(colour, "WEBP", save_all=True, append_images=more, duration=50)
    yield "gif", saved(colour.quantize(64), "GIF")
    yield "gif-grey", saved(grey, "GIF")
    yield "gif-transparent", saved(colour.quantize(64), "GIF", transparency=3)
    yield "gif-animated", saved(colour, "GIF", save_all=True, append_images=more, duration=50)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp-{mode.lower()}", saved(clear if mode == "RGBA" else colour.convert(mode), "BMP")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"tiff-{compression}", saved(colour, "TIFF", compression=compression)
    yield "tiff-grey", saved(grey, "TIFF")
    yield "tiff-fax", saved(grey.convert("1"), "TIFF", compression="group4")
    yield "tiff-palette", saved(colour.quantize(32), "TIFF")
    yield "tiff-rgba", saved(clear, "TIFF")
    yield "tiff-cmyk", saved(colour.convert("CMYK"), "TIFF")
    yield "tiff-16", saved(Image.fromarray(values[..., 0].astype(numpy.uint16) * 257), "TIFF")
    yield "tiff-float", saved(Image.fromarray(values[..., 0].astype(numpy.float32) / 255), "TIFF")
    yield "tiff-float-too-large", saved(Image.fromarray(values[..., 0].astype(numpy.float32)), "TIFF")
    yield "tiff-signed", saved(Image.fromarray(values[..., 0].astype(numpy.int32) - 100), "TIFF")
    yield "tiff-turned", saved(colour, "TIFF", tiffinfo={ORIENTATION: 6})
    yield "tiff-pages", saved(colour, "TIFF", save_all=True, append_images=more)
    yield "tiff-tiled", tiled_tiff(values[..., :3])


def sound_files() -> dict[str, bytes]:
    """Return valid files of every kind in every size of SIZES, named by kind and size."""
    files = {}
    for width, height in SIZES:
        values = picture(width, height, 4)
        colour = Image.fromarray(numpy.ascontiguousarray(values[..., :3]))
        grey = colour.convert("L")
        for some in (_jpegs(colour, grey), _pngs(values, colour, grey), _others(values, colour, grey)):
            files |= {f"{name}-{width}x{height}": content for name, content in some}
    return files


def damaged_files() -> dict[str, bytes]:
    """Return truncated files, files with overwritten bytes, and files that are no images."""
    files = {"empty": b"", "text": b"not an image\n" * 20, "zeros": bytes(500)}
    kinds = "jpeg-420 jpeg-444-progressive jpeg-exif6 png-rgb png-grey16 webp-lossy gif-animated bmp-rgb tiff-tiff_lzw"
    for name, content in sound_files().items():
        kind, _, size = name.rpartition("-")
        if kind in kinds.split() and size == "24x24":
            for share in (2, 20, 50, 90, 99):
                files[f"{name}-first{share}"] = content[: len(content) * share // 100]
            for place in (1, 3):
                at = len(content) * place // 4
                files[f"{name}-overwritten{place}"] = content[:at] + bytes(12) + content[at + 12 :]
    return files
