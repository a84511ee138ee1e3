"""The provenance of an evaluation: versions and commit."""

from robustcls.core.provenance import commit, versions


def test_provenance():
    found = versions()
    assert found["torch"].startswith("2")
    assert "python" in found
    assert all(isinstance(version, str) for version in found.values())
    assert commit() == "" or len(commit().rstrip("+")) == 12
