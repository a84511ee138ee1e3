"""Images in 8 bits, or on disk, give the same values as the tensors they represent."""

import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.runtime import stored
from robustcls.runtime.predict import predict
from robustcls.runtime.stored import EightBit, Stored, as_floats, empty_pixels, select


def pixels(n=12):
    return torch.randint(0, 256, (n, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


ROWS = [
    torch.tensor([3, 1, 3]), torch.arange(12) % 3 == 0, slice(2, 7), slice(None), [0, 11], torch.tensor([], dtype=torch.int64),
]  # fmt: skip


@pytest.mark.parametrize("rows", ROWS, ids=["numbers", "bool", "slice", "all", "list", "none"])
def test_eight_bits_are_read_as_their_floats(rows):
    whole = pixels().float() / 255
    images = EightBit(pixels())
    assert torch.equal(images[rows], whole[rows])
    assert images.shape == whole.shape
    assert len(images) == 12
    some = torch.tensor([9, 2, 2, 5, 0, 1, 3, 4, 6, 7, 8, 11])
    assert torch.equal(select(images, some)[rows], select(whole, some)[rows])
    assert torch.equal(select(select(images, some), torch.tensor([1, 0]))[:], whole[[2, 9]])
    assert all(torch.equal(one, other) for one, other in zip(images.split(5), whole.split(5), strict=True))


def test_a_selection_copies_no_pixels():
    images = EightBit(pixels())
    assert images.take(torch.tensor([1])).pixels is images.pixels


def test_large_sets_alone_stay_in_eight_bits(monkeypatch):
    assert torch.equal(as_floats(pixels()), pixels().float() / 255)
    monkeypatch.setattr(stored, "LARGE", 12 * 60 * 4 - 1)
    assert isinstance(as_floats(pixels()), EightBit)
    monkeypatch.setattr(stored, "LARGE", 12 * 60 * 4)
    assert not isinstance(as_floats(pixels()), EightBit)


def test_logits_are_those_of_the_floats():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))
    assert torch.equal(predict(model, EightBit(pixels()), 5), predict(model, pixels().float() / 255, 5))


def test_what_is_stored_is_what_a_tensor_holds():
    """300 random writes and reads are compared with a tensor."""
    draws = torch.Generator().manual_seed(0)
    images, plain = Stored(EightBit(pixels())), pixels().float() / 255
    for _ in range(300):
        rows = torch.randperm(12, generator=draws)[: int(torch.randint(0, 6, (), generator=draws))]
        if torch.rand((), generator=draws) < 0.5:
            new = torch.rand(len(rows), 3, 5, 4, generator=draws)
            images[rows], plain[rows] = new, new
        assert torch.equal(images[rows], plain[rows])
    copy = images.clone()
    images[:1] = torch.zeros(1, 3, 5, 4)
    assert torch.equal(copy[:], plain)
    assert torch.equal(images[1:], plain[1:])
    assert (images[:1] == 0).all()


def test_what_is_forgotten_cannot_be_read_and_leaves_room():
    images = Stored(EightBit(pixels()))
    images[torch.arange(6)] = torch.rand(6, 3, 5, 4)
    kept = images[[5]]
    images.forget(torch.arange(12) < 5)
    with pytest.raises(RuntimeError, match="not to be kept"):
        images[torch.tensor([5, 0])]
    images[torch.arange(6, 11)] = torch.rand(5, 3, 5, 4)
    assert images.end == 6, "the five free rows are used again"
    assert torch.equal(images[[5]], kept)
    assert images.kept.tolist() == [False] * 5 + [True] * 7
    assert not images.clone().kept[0]


def test_many_pixels_lie_in_a_file(monkeypatch):
    monkeypatch.setattr(stored, "MAPPED", 100)
    assert isinstance(empty_pixels((2, 3, 5, 4)), numpy.memmap)
    assert not isinstance(empty_pixels((1, 3, 5, 4)), numpy.memmap)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: SimpleNamespace(free=119))
    with pytest.raises(InputError, match="2 images of 5x4 need .*TMPDIR"):
        empty_pixels((2, 3, 5, 4))


CODE = """
import resource, sys, torch
from robustcls.runtime.stored import EightBit, Stored, empty_pixels
x = EightBit(torch.from_numpy(empty_pixels(({n}, 3, 64, 64))))
x_adv = Stored(x)
for rows in torch.arange({n}).split(50):
    x_adv[rows] = x[rows] + 0.1
assert all(torch.equal(x_adv[rows], x[rows] + 0.1) for rows in torch.arange({n}).split(50))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_holds_the_eight_bits_alone():
    peaks = [
        int(subprocess.run([sys.executable, "-c", CODE.format(n=n)], capture_output=True, text=True, check=True).stdout)
        for n in (200, 4200)
    ]
    pixels = 4000 * 3 * 64 * 64
    assert peaks[1] - peaks[0] < 1.7 * pixels, "float32 would take four times as much"
