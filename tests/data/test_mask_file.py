"""Which pixels of an image file may change."""

import numpy as np
import pytest
from PIL import Image

from robustcls.data.mask_file import read_mask

# White, black, transparent white, white with half opacity and with less, greys on either side of the threshold, and
# transparent black.
PIXELS = [(255, 255), (0, 255), (255, 0), (255, 128), (255, 127), (128, 255), (127, 255), (0, 0)]  # grey, alpha
ALLOWED = [True, False, False, True, False, True, False, False]
OPAQUE = [True, False, True, True, True, True, False, False]  # without the alpha channel


def in_mode(mode):
    grey_alpha = np.array([PIXELS], dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(grey_alpha[..., 0])
    if mode == "LA":
        return Image.fromarray(grey_alpha, "LA")
    return Image.fromarray(grey_alpha[..., [0, 0, 0, 1]] if mode == "RGBA" else grey_alpha[..., [0, 0, 0]])


@pytest.mark.parametrize(("mode", "allowed"), [("L", OPAQUE), ("RGB", OPAQUE), ("LA", ALLOWED), ("RGBA", ALLOWED)])
def test_what_is_transparent_may_not_change(mode, allowed, tmp_path):
    image = in_mode(mode)
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").allowed.tolist() == [allowed]


def test_a_transparent_palette_or_grey_value_may_not_change(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    palette.putpalette([255, 255, 255, 255, 255, 254, 0, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    grey = Image.fromarray(np.array([[255, 254, 0]], dtype=np.uint8))
    grey.save(tmp_path / "l.png", transparency=255)
    for name in ("p.png", "l.png"):
        assert read_mask(tmp_path / name).allowed.tolist() == [[False, True, False]]


def test_colours_count_by_their_grey_value(tmp_path):
    colours = np.array([[(255, 255, 0), (0, 255, 0), (255, 0, 0), (0, 0, 255)]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "mask.png")
    grey = colours @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert read_mask(tmp_path / "mask.png").allowed.tolist() == (grey >= 128).tolist() == [[True, True, False, False]]
