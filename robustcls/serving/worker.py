"""The worker process, which decodes images and runs the model:
`python -m robustcls.serving.worker FD FOLDER THREADS BATCH MAX_PIXELS`.

It isolates untrusted input: an image that crashes a decoder, or a model that uses up all memory, ends only this process, and
the service starts another one. It answers requests on a socket until the other end closes the socket.
"""

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.images.decode import Form, Unscaled, decode_image
from robustcls.images.limits import check_header
from robustcls.results.artefact import MANIFEST, Decoding, Manifest
from robustcls.runtime.session import OtherLogits, Run, check_file, check_reference, open_session
from robustcls.serving.messages import SIZES, pack, unpack

NDPixels = NDArray[Any]


class Limits(NamedTuple):
    """The largest batch, and the largest number of pixels of an encoded image."""

    batch: int
    max_pixels: int


def serve(connection: socket.socket, folder: Path, threads: int, limits: Limits) -> None:
    """Report that the worker is ready, or why not; then answer requests until the connection is closed."""
    try:
        manifest, digest = Manifest.of(folder), sha256(folder / MANIFEST)
        run = _runner(folder, manifest, threads)
        difference = check_reference(folder, manifest, run)
        run(
            numpy.zeros((limits.batch, *manifest.input_size), numpy.float32)
        )  # allocates the memory of a full batch in advance
    except OtherLogits as error:
        _send(connection, {"error": str(error), "difference": error.largest})
        return
    except InputError as error:
        _send(connection, {"error": str(error)})
        return
    except MemoryError:
        _send(
            connection, {"error": f"`batch={limits.batch}` needs more memory than is available: give a smaller batch"}
        )
        return
    _send(connection, {"difference": difference.largest, "manifest": digest})
    while (message := _receive(connection)) is not None:
        head, payload = message
        answer, logits = _compute(head["items"], payload, manifest.decoding, run, limits)
        _send(connection, answer, numpy.ascontiguousarray(logits, "<f4").tobytes())


def _runner(folder: Path, manifest: Manifest, threads: int) -> Run:
    session = open_session(check_file(folder, manifest), threads, spin=False)
    output, name = session.get_outputs()[0].name, session.get_inputs()[0].name
    return lambda pixels: session.run([output], {name: pixels})[0]


def _compute(
    items: list[dict], payload: memoryview, decoding: Decoding, run: Run, limits: Limits
) -> tuple[dict, NDArray[numpy.float32]]:
    """Decode and compute a batch of requests.

    Returns the number of rows of each request in the logits, or its error, with the seconds of both steps; and the logits.
    """
    began = time.perf_counter()
    images: list[NDPixels] = []
    told: list[dict[str, Any]] = []
    at = 0
    shape = decoding.channels, decoding.height, decoding.width
    for item in items:
        if item["kind"] == "files":
            files = []
            for size in item["sizes"]:
                files.append(bytes(payload[at : at + size]))
                at += size
            try:
                found = decode_all(files, decoding, limits.max_pixels)
            except InputError as error:
                told.append({"error": str(error)})
                continue
        else:
            kind = numpy.dtype("<f4" if item["kind"] == "FP32" else "u1")
            end = at + item["n"] * shape[0] * shape[1] * shape[2] * kind.itemsize
            found = as_pixels(numpy.frombuffer(payload[at:end], kind).reshape(-1, *shape))
            at = end
        images.append(found)
        told.append({"n": len(found)})
    decoded = time.perf_counter()
    every = numpy.concatenate(images) if images else numpy.empty((0, *shape), numpy.float32)
    rows = [run(every[start : start + limits.batch]) for start in range(0, len(every), limits.batch)]
    logits = numpy.concatenate(rows) if rows else numpy.empty((0, 0), numpy.float32)
    return {"items": told, "decode": decoded - began, "inference": time.perf_counter() - decoded}, logits


def as_pixels(images: NDPixels) -> NDPixels:
    """Convert uint8 images to floats in [0, 1], in the same way as for the evaluation; return others unchanged."""
    return images.astype(numpy.float32) / numpy.float32(255) if images.dtype.kind == "u" else images


def decode_all(files: list[bytes], decoding: Decoding, max_pixels: int) -> NDPixels:
    """Decode encoded images to N,C,H,W, in the same way as data/folders. Raises InputError for the first invalid image."""
    form = Form(
        decoding.height, decoding.width, decoding.channels, decoding.white, "", decoding.shorter_side, decoding.filter
    )
    pixels = numpy.empty((len(files), form.channels, form.height, form.width), numpy.uint8)
    for row, content in enumerate(files):
        which = f"image {row}: " if len(files) > 1 else ""
        try:
            kind = check_header(content, max_pixels=max_pixels, formats=decoding.formats)
            pixels[row] = decode_image(
                content, form, {}, is_dicom=kind == "DICOM", formats=None if kind == "DICOM" else [kind]
            )
        except Unscaled as error:
            raise InputError(f"{which}{error}: send it in 8 bits") from None
        except InputError as error:
            raise InputError(f"{which}{error}") from None
        except Exception as error:  # decoders may raise any exception for a damaged file
            raise InputError(f"{which}cannot be decoded{_reason(error)}") from None
    return as_pixels(pixels)


def _reason(error: Exception) -> str:
    """The part of a decoder's error that is sent to the client, without details about this machine's memory or packages."""
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError) or not text:
        return ""
    if isinstance(error, (RuntimeError, ImportError)):  # raised by pydicom if the package for a compression is missing
        return ": its compression is not supported"
    return f": {text:.160}"


def _send(connection: socket.socket, head: dict, payload: bytes = b"") -> None:
    connection.sendall(b"".join(pack(head, payload)))


def _receive(connection: socket.socket) -> tuple[dict, memoryview] | None:
    sizes = _read(connection, SIZES.size)
    if sizes is None:
        return None
    text, size = SIZES.unpack(sizes)
    head, payload = _read(connection, text), _read(connection, size)
    return None if head is None or payload is None else (unpack(bytes(head)), payload)


def _read(connection: socket.socket, size: int) -> memoryview | None:
    """Read `size` bytes; None if the other end has closed the connection."""
    into, at = memoryview(bytearray(size)), 0
    while at < size:
        count = connection.recv_into(into[at:])
        if not count:
            return None
        at += count
    return into


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group, but the service decides when this process ends
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptor, place, *numbers = sys.argv[1:]
    count, batch, pixels = map(int, numbers)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(socket.socket(fileno=int(descriptor)), Path(place), count, Limits(batch, pixels))
