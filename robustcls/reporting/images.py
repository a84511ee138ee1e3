"""Turn arrays of the gallery into data URIs at native resolution, and keep the report within its size limit."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from PIL import Image

from robustcls.reporting.scrub import without_arrays
from robustcls.results.records import Array, Evaluation

if TYPE_CHECKING:
    from robustcls.evaluation.measures.gallery.record import Example

LIMIT = 4_600_000  # bytes; a report of 5 MB can still be sent by e-mail
_PAGE = 500_000  # bytes reserved for the page without images and JSON
_QUALITIES = (90, 75, 55, 35, 15)  # of WebP, tried in this order


def plan(evaluations: Sequence[Evaluation], apart: bool = False) -> tuple[int | None, bool]:
    """Return the quality of the WebP images (None: lossless PNG) and whether the JSON inside the page may keep its arrays.

    apart: the images become separate files and take no space on the page.
    """
    galleries = [evaluation.gallery for evaluation in evaluations if evaluation.gallery is not None]
    examples = [example for gallery in galleries for example in gallery.examples if not is_empty(example.clean)]
    packed = sum(len(array.data) for example in examples for array in _arrays(example))
    if not packed:
        return None, True
    bare = sum(len(json.dumps(vars(sample))) for evaluation in evaluations for sample in evaluation.samples)
    room = LIMIT - _PAGE - bare
    if apart:
        return None, packed <= room
    if 1.25 * packed <= room:  # an array compressed by zlib is about as large as its PNG
        return None, 2.25 * packed <= room
    tried = examples[:: max(1, len(examples) // 2)]
    for quality in _QUALITIES:
        size = sum(len(uri) for example in tried for uri in _drawn(example, quality)) * len(examples) / len(tried)
        if size <= 0.92 * room:
            return quality, False
    return _QUALITIES[-1], False


def take_out(text: str, folder: str) -> tuple[str, dict[str, bytes]]:
    """Replace the PNG data URIs in HTML by files in `folder`, a relative URL.

    Returns the new HTML and the contents of the files by name. Names are digests of the content, so equal images share a file.
    """
    files: dict[str, bytes] = {}

    def name(found: re.Match[str]) -> str:
        content = base64.b64decode(found[1])
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.png"
        files[name] = content
        return f'src="{folder}/{name}"'

    return re.sub(r'src="data:image/png;base64,([\w+/]+=*)"', name, text), files


def is_empty(array: Array) -> bool:
    """Whether the pixels were removed from the array."""
    return 0 in array.shape


def show_image(array: Array, quality: int | None) -> str:
    """A C,H,W image in [0, 1] as a data URI."""
    return _encode(_to_bytes(array.decode()), quality)


def show_perturbation(array: Array, quality: int | None) -> tuple[str, int]:
    """A C,H,W perturbation as a data URI, in which grey is zero, and the integer factor by which it is amplified."""
    delta = array.decode()
    largest = float(abs(delta).max())
    factor = max(1, int(0.5 / largest)) if largest else 1
    return _encode(_to_bytes(0.5 + factor * delta), quality), factor


def show_maps(arrays: Sequence[Array], quality: int | None) -> tuple[list[str], float, bool]:
    """H,W maps as data URIs on a common scale, the largest magnitude of the scale, and whether the maps are signed."""
    maps = [array.decode() for array in arrays]
    limit = max(float(np.abs(values).max()) for values in maps)
    signed = any(values.min() < 0 for values in maps)
    low = -limit if signed else 0.0
    scaled = [(values - low) / ((limit - low) or 1.0) for values in maps]
    colours = _colours("RdBu_r" if signed else "cividis")
    levels = [np.clip(np.rint(values * 255), 0, 255).astype(np.uint8) for values in scaled]
    return [_encode(level, quality, colours) for level in levels], limit, signed


def _arrays(example: "Example") -> list[Array]:
    return [example.clean, example.adversarial, example.perturbation, *(one.values for one in example.maps)]


def _drawn(example: "Example", quality: int) -> list[str]:
    pair = [show_image(array, quality) for array in (example.clean, example.adversarial)]
    maps = show_maps([one.values for one in example.maps], quality)[0] if example.maps else []
    return [*pair, show_perturbation(example.perturbation, quality)[0], *maps]


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert C,H,W values in [0, 1] to H,W or H,W,3 bytes."""
    pixels = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return pixels[0] if len(pixels) != 3 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


@cache
def _colours(name: str) -> bytes:
    return np.rint(colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes()


def _encode(pixels: np.ndarray, quality: int | None, colours: bytes | None = None) -> str:
    image = Image.fromarray(pixels)
    if colours is not None:
        image.putpalette(colours)
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG", compress_level=6)
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=quality, method=0)
    kind = "png" if quality is None else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embed(evaluation: Evaluation, arrays: bool) -> str:
    """The evaluation's JSON for a <script> block, with the characters escaped that could end the block."""
    kept = evaluation if arrays else without_arrays(evaluation)
    text = json.dumps(json.loads(kept.to_json()), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
