import pytest
import torch

from robustcls.data.images import Images, batches, num_batches


@pytest.fixture
def images():
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 4, 4).contiguous()
    return Images(pixels, torch.arange(10), tuple("abcdefghij"), "tiny")


def order(*args, **options):
    return [y.tolist() for _, y in batches(*args, **options)]


def test_each_sample_once_and_pixels_follow_labels(images):
    seen = []
    for x, y in batches(images, 4, seed=1):
        assert x.dtype is torch.float32
        assert torch.equal(x[:, 0, 0, 0], y.float() / 255)
        seen += y.tolist()
    assert sorted(seen) == list(range(10))


def test_order_is_told_by_seed_and_epoch(images):
    assert order(images, 4, seed=1, epoch=2) == order(images, 4, seed=1, epoch=2)
    assert order(images, 4, seed=1, epoch=2) != order(images, 4, seed=1, epoch=3)
    assert order(images, 4, seed=1, epoch=2) != order(images, 4, seed=2, epoch=2)
    assert order(images, 4, shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_resumes_at_a_batch(images):
    assert order(images, 3, seed=5, start=2) == order(images, 3, seed=5)[2:]
    assert order(images, 3, start=4) == []


def test_drop_last(images):
    assert [len(y) for y in order(images, 4, drop_last=True)] == [4, 4]
    assert [len(y) for y in order(images, 64, drop_last=True)] == [10]
    assert (num_batches(images, 4), num_batches(images, 4, drop_last=True), num_batches(images, 5)) == (3, 2, 2)


def test_channels_last(images):
    x, _ = next(batches(images, 4, channels_last=True))
    assert x.is_contiguous(memory_format=torch.channels_last)
