"""Runs on tiny digits."""

import pytest

from robustcls.data.splits import load_training_data
from tests.helpers.tiny_run import TINY, tiny_run


@pytest.fixture(scope="session")
def tiny_images():
    """Training and validation images for each limit, read once."""
    return {limit: load_training_data(TINY["data"], limit_train=limit) for limit in (160, 1000)}


@pytest.fixture
def make_run(tmp_path, tiny_images):
    """Makes a run in the folder `name`, with other options than the tiny ones where given."""
    return lambda name="run", **options: tiny_run(tmp_path / name, tiny_images, **options)
