"""Batches of labelled and unlabelled images."""

import pytest
import torch

from robustcls.data.images import Images
from robustcls.data.mixed import Mixed

L, U = 10, 25


@pytest.fixture
def mixed():
    """Return a function that mixes labelled and unlabelled images. Image values are numbers: from 0 for labelled images, and
    from 100 for unlabelled ones."""

    def images(first, count, label):
        pixels = torch.arange(first, first + count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 2, 2)
        labels = torch.arange(count) if label is None else torch.full((count,), label)
        return Images(pixels.contiguous(), labels, tuple("abcdefghij"), "tiny")

    return lambda share=0.5, parts=1: Mixed(images(0, L, None), images(100, U, -100), share, parts)


def drawn(mixed, batch_size, **options):
    """Return the numbers of the images and the labels of each batch."""
    return [
        ((x[:, 0, 0, 0] * 255).round().long().tolist(), y.tolist()) for x, y in mixed.batches(batch_size, **options)
    ]


def test_labels_follow_images_and_every_batch_has_its_share(mixed):
    batches = drawn(mixed(), 8)
    assert len(batches) == (L + U) // 8 == mixed().num_batches(8)
    for numbers, labels in batches:
        assert all(label == (number if number < 100 else -100) for number, label in zip(numbers, labels, strict=True))
        assert sum(label == -100 for label in labels) == 4


@pytest.mark.parametrize(
    ("share", "size", "parts", "count"), [(0.5, 8, 2, 4), (0.75, 8, 2, 6), (0.1, 8, 4, 4), (0.99, 6, 1, 5)]
)
def test_each_part_has_the_same_share_and_none_is_without_either(share, size, parts, count, mixed):
    places = mixed(share, parts).places(size)
    assert int(places.sum()) == count
    assert len({int(part.sum()) for part in places.chunk(parts)}) == 1
    assert all(0 < int(part.sum()) < len(part) for part in places.chunk(parts))


def test_all_images_of_a_source_come_before_any_comes_again(mixed):
    """In 16 draws from 10 labelled images, each occurs once and then 6 again. In 16 unlabelled draws, no image occurs twice."""
    numbers = [number for batch, _ in drawn(mixed(), 8, epoch=3) for number in batch]
    known, others = ([n for n in numbers if (n < 100) == side] for side in (True, False))
    assert (len(known), len(others)) == (16, 16)
    assert sorted(known[:L]) == list(range(L))
    assert len(set(known[L:])) == 6
    assert known[L:] != known[:6]  # the order changes
    assert len(set(others)) == 16


def test_order_is_told_by_seed_and_epoch(mixed):
    assert drawn(mixed(), 8, seed=1, epoch=2) == drawn(mixed(), 8, seed=1, epoch=2)
    assert drawn(mixed(), 8, seed=1, epoch=2) != drawn(mixed(), 8, seed=1, epoch=3)
    assert drawn(mixed(), 8, seed=1, epoch=2) != drawn(mixed(), 8, seed=2, epoch=2)


def test_resumes_at_a_batch(mixed):
    assert drawn(mixed(), 8, seed=5, start=2) == drawn(mixed(), 8, seed=5)[2:]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_processes_share_each_batch(share, mixed):
    whole = drawn(mixed(share, 2), 8, seed=4)
    parts = [drawn(mixed(share, 2), 8, seed=4, rank=rank, size=2) for rank in (0, 1)]
    assert [one[0] + other[0] for one, other in zip(*parts, strict=True)] == [numbers for numbers, _ in whole]


def test_fewer_images_than_a_batch_are_one_batch(mixed):
    ((numbers, _),) = drawn(mixed(), 100)
    assert len(numbers) == L + U
    assert torch.equal(next(iter(mixed().batches(8)))[0], next(iter(mixed().batches(8)))[0])


def test_channels_last(mixed):
    x, _ = next(mixed().batches(8))
    assert x.is_contiguous(memory_format=torch.channels_last)
