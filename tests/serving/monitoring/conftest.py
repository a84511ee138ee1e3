"""Fixtures for the tests of monitoring."""

import pytest

from tests.helpers.fake_service import write_artefact


@pytest.fixture
def artefact(tmp_path):
    return write_artefact(tmp_path / "artefact")
