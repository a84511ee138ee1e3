"""What all tests share."""

import pytest
import torch

from robustcls.data.splits import load_training_data
from tests.helpers.short_checks import shorten_checks
from tests.helpers.tiny_run import TINY, tiny_run


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """No test depends on the one before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_images():
    """Training and validation images for each limit, read once."""
    return {limit: load_training_data(TINY["data"], limit_train=limit) for limit in (160, 500, 1000)}


@pytest.fixture
def make_run(tmp_path, tiny_images):
    """Makes a run on tiny digits in the folder `name`, with other options than the tiny ones where given."""
    return lambda name="run", **options: tiny_run(tmp_path / name, tiny_images, **options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The fixtures of a test are made with the checks that it has."""
    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("whole_checks"):
            shorten_checks(patch.setattr)
        return (yield)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        # Among several workers slow files come first, so that none is left alone with one at the end.
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
