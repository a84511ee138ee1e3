import os
from pathlib import Path

import pytest

from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, replacing, sha256
from robustcls.core.provenance import commit, versions


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as part:
        part.write_text("abc")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_text() == "abc"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", [".", "file/below.txt", "file/deep/below.txt", "folder"])
def test_places_that_cannot_be_written(tmp_path, place, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (Path(place), place):
        with pytest.raises(InputError, match="cannot write") as caught, replacing(path) as part:
            part.write_text("y")
        assert "--out" in str(caught.value)
        with pytest.raises(InputError):
            check_writable(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / "a" / "b.txt")


def test_checking_makes_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.txt")
    assert list(tmp_path.iterdir()) == []


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_provenance():
    found = versions()
    assert found["torch"].startswith("2")
    assert "python" in found
    assert all(isinstance(version, str) for version in found.values())
    assert commit() == "" or len(commit().rstrip("+")) == 12
