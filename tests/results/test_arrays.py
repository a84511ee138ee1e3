"""Arrays inside JSON."""

import base64
import dataclasses
import json
import tracemalloc
import zlib

import numpy as np
import pytest

from robustcls.core.errors import InputError
from robustcls.results.records import Array


def test_arrays_both_ways():
    draw = np.random.default_rng(0)
    signed = draw.normal(size=(3, 5, 4)).astype(np.float32)
    array = Array.encode(signed)
    assert array.decode().shape == (3, 5, 4)
    assert array.decode().dtype == np.float32
    np.testing.assert_allclose(array.decode(), signed, atol=np.abs(signed).max() / 254 * 1.001)
    levels = draw.integers(0, 256, (3, 4, 4)).astype(np.float32) / 255
    np.testing.assert_allclose(Array.encode(levels, "uint8", 1 / 255).decode(), levels, atol=1e-7)
    assert (Array.encode(np.zeros((2, 2))).decode() == 0).all()
    assert Array.encode(np.array([-1.0, 2.0]), "uint8").decode().tolist() == [0.0, pytest.approx(2.0)]


def test_arrays_have_no_nan():
    array = Array.encode(np.array([np.nan, np.inf, -np.inf, 2.0]))
    assert array.decode().tolist() == [0, 0, 0, pytest.approx(2.0)]
    json.dumps(dataclasses.asdict(array), allow_nan=False)


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "array",
    [
        Array([2, 2], "uint8", 1.0, packed(b"abc")),  # short
        Array([2, 2], "uint8", 1.0, packed(b"abcde")),  # long
        Array([2, 2], "uint8", 1.0, packed(bytes(100_000_000))),  # a bomb
        Array([1 << 20, 1 << 20], "uint8", 1.0, packed(bytes(1000))),  # room for a bomb
        Array([1 << 40, 1 << 40], "uint8", 1.0, packed(bytes(1000))),
        Array([2, 2], "uint8", 1.0, packed(b"abcd")[:-8]),
        Array([2, 2], "uint8", 1.0, "!"),
        Array([2, 2], "uint8", 1.0, "é"),
        Array([2, 2], "uint8", 1.0, base64.b64encode(b"abcd").decode()),
        Array([-2, -2], "uint8", 1.0, packed(b"abcd")),
        Array([2, 2], "object", 1.0, packed(b"abcd")),
        Array([1], "float32", 1.0, packed(b"abcd")),
    ],
)
def test_arrays_that_do_not_hold_their_data(array):
    with pytest.raises(InputError, match="does not hold its data"):
        array.decode()


def test_a_bomb_is_not_unpacked():
    bomb = Array([2, 2], "uint8", 1.0, packed(bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(InputError):
        bomb.decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
