"""Messages of the compute process: about images, and about an artefact that gives other results than where it was exported."""

import asyncio
import io
import shutil

import numpy
import pytest
from PIL import Image, UnidentifiedImageError

from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.images.formats import formats
from robustcls.results.artefact import MANIFEST, Decoding
from robustcls.runtime.session import OtherLogits
from robustcls.serving import worker
from robustcls.serving.process import Process
from robustcls.serving.worker import decode_all

DECODING = Decoding(height=4, width=4, channels=1, formats=formats())


def saved(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(numpy.asarray(pixels)).save(buffer, kind)
    return buffer.getvalue()


def refusal(*files, decoding=DECODING):
    with pytest.raises(InputError) as caught:
        decode_all(list(files), decoding, 10**6)
    return str(caught.value)


def test_a_client_is_told_nothing_of_options_or_folders():
    said = refusal(saved(numpy.full((4, 4), 400, numpy.float32), "TIFF"))
    assert said == "float pixels from 400 to 400, not in 0..1: send it in 8 bits"


def test_a_model_without_formats_takes_no_encoded_images():
    decoding = Decoding(height=4, width=4, channels=1)
    assert refusal(saved(numpy.zeros((4, 4), numpy.uint8), "PNG"), decoding=decoding) == (
        "this model takes no encoded images: send pixels"
    )


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (UnidentifiedImageError("cannot identify image file <_io.BytesIO object at 0x7f00>"), "cannot be decoded"),
        (RuntimeError("missing dependencies:\n gdcm, pip install it"), "cannot be decoded: its compression is not supported"),
        (MemoryError(), "cannot be decoded"),
        (ValueError("short\n  row"), "cannot be decoded: short row"),
        (ValueError("x" * 999), "cannot be decoded: " + "x" * 160),
    ],
)  # fmt: skip
def test_what_a_decoder_raises_is_told_without_this_machine(raised, words, monkeypatch):
    def broken(*_, **__):
        raise raised

    monkeypatch.setattr(worker, "decode_image", broken)
    assert refusal(saved(numpy.zeros((4, 4), numpy.uint8), "PNG")) == words


def test_a_difference_beyond_the_tolerance_is_told_with_the_refusal(artefact, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(artefact, folder)
    with numpy.load(folder / "reference.npz") as stored:
        changed = {**stored, "logits": stored["logits"] + numpy.float32(3)}
    numpy.savez(folder / "reference.npz", **changed)

    async def start():
        await Process.start(folder, sha256(folder / MANIFEST), 1, 1, 10**6)

    with pytest.raises(OtherLogits, match="does not run on this machine") as caught:
        asyncio.run(start())
    assert caught.value.largest == pytest.approx(3, abs=0.01)
