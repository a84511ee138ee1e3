"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """No test depends on the one before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
