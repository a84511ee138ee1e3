"""Fixtures for the tests of the service."""

import pytest

from tests.helpers.serving import small_artefact


@pytest.fixture(scope="session")
def artefact(tmp_path_factory):
    """Return an artefact in floating point."""
    pytest.importorskip("onnxscript")
    return small_artefact(tmp_path_factory.mktemp("artefact") / "small")


@pytest.fixture(scope="session")
def artefact8(tmp_path_factory):
    """Return an artefact in 8 bits, of another network."""
    pytest.importorskip("onnxscript")
    return small_artefact(tmp_path_factory.mktemp("artefact8") / "small8", seed=1, quantize="int8(calibrate=64)")
