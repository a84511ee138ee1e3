"""Fixtures and hooks for all tests."""

import pytest
import torch

from robustcls.data.splits import load_training_data
from tests.helpers.short_checks import shorten_checks
from tests.helpers.tiny_run import TINY, tiny_run


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Seed PyTorch before each test, so that no test depends on the one before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_images():
    """Return training and validation images by `limit_train`, which are read once."""
    return {limit: load_training_data(TINY["data"], limit_train=limit) for limit in (160, 500, 1000)}


@pytest.fixture
def make_run(tmp_path, tiny_images):
    """Make a run on tiny digits in the folder `name`; options override those of TINY."""
    return lambda name="run", **options: tiny_run(tmp_path / name, tiny_images, **options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Shorten the self-checks for tests without the marker `whole_checks`, already while their fixtures are set up."""
    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("whole_checks"):
            shorten_checks(patch.setattr)
        return (yield)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        # With several workers, slow files come first, so that no worker is still busy with one when the others have finished.
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
