"""Packing and unpacking examples is lossless."""

import pytest
import torch

from robustcls.evaluation.packing import pack, unpack


def same_bits(one, other):
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def levels(n=4, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 16, 16), generator=draws).float() / 255


def noise(scale):
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(2).sub(1).mul(scale)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: (x + noise(1).sign() * 8 / 255).clamp(0, 1),
        lambda x: (x + noise(8 / 255)).clamp(0, 1),
        lambda x: (x * 255 + noise(3).round()).clamp(0, 255) / 255,
        lambda x: noise(1e30),
        lambda x: torch.full_like(x, float("nan")),
        lambda x: torch.where(noise(1) > 0, -0.0, 1e-42),
        lambda x: torch.full_like(x, -float("inf")),
    ],
    ids=["nothing", "corners", "inside", "levels", "anything", "nan", "tiny", "infinite"],
)
def test_what_is_packed_comes_out_again(change):
    x = levels()
    x_adv = change(x)
    assert same_bits(unpack(pack(x_adv, x), x), x_adv)


def test_examples_at_the_corners_of_the_ball_take_a_fraction():
    x = levels()
    packed = pack((x + noise(1).sign() * 8 / 255).clamp(0, 1), x)
    assert len(packed[0]) < 0.45 * 4 * x.numel()


def test_what_would_be_no_smaller_stays_as_it_is():
    x = levels()
    x_adv = torch.randint(-(2**31), 2**31, x.shape, generator=torch.Generator().manual_seed(2)).to(torch.int32)
    x_adv = x_adv.view(torch.float32)
    assert pack(x_adv, x) is x_adv


def test_a_pack_needs_the_clean_images_that_it_was_made_with():
    x = levels()
    x_adv = (x + noise(8 / 255)).clamp(0, 1)
    assert not torch.equal(unpack(pack(x_adv, x), levels(seed=5)), x_adv)
