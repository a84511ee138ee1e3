import contextlib
import os
import resource
import socket
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable, is_stream, sha256


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as part:
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
        with atomic_write(path) as part:
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
        with pytest.raises(InputError, match="cannot write") as caught, atomic_write(path) as part:
            part.write_text("y")
        assert "`out`" in str(caught.value)
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


def write(path, content=b"new"):
    with atomic_write(path) as part:
        part.write_bytes(content)


def test_of_a_link_the_file_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").write_bytes(b"old")
    for link, target in (("link", "real/kept"), ("chain", "link"), ("dangling", "real/deep/later")):
        (tmp_path / link).symlink_to(target)
        check_writable(tmp_path / link)
        write(tmp_path / link, link.encode())
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_bytes() == link.encode()
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["deep", "kept"]


def test_a_ring_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for attempt in (check_writable, write):
        with pytest.raises(InputError, match="cannot write") as caught:
            attempt(tmp_path / "a")
        assert "symbolic links" in str(caught.value)


def test_every_name_of_a_file_has_the_new_content(tmp_path):
    (tmp_path / "one").write_bytes(b"something long and old")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    write(tmp_path / "one")
    assert (tmp_path / "two").read_bytes() == b"new"
    assert (tmp_path / "one").samefile(tmp_path / "two")
    assert len(list(tmp_path.iterdir())) == 2


def test_permissions_stay(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_pipe_takes_the_content(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    assert is_stream(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    check_writable(pipe)
    write(pipe, bytes(200_000))
    reader.join()
    assert got == [bytes(200_000)]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_a_device():
    before = os.stat(os.devnull)
    assert is_stream(os.devnull)
    write(os.devnull)
    after = os.stat(os.devnull)
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_says_so():
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device: make room"):
        write("/dev/full")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_an_open_file_is_written_on_not_replaced(tmp_path):
    """This matters for /dev/stdout, which a shell may have redirected to a file."""
    with open(tmp_path / "log", "wb") as log:
        log.write(b"before ")
        log.flush()
        for place in (f"/proc/self/fd/{log.fileno()}", f"/dev/fd/{log.fileno()}"):
            assert is_stream(place)
            write(place)
        log.write(b" after")
    assert (tmp_path / "log").read_bytes() == b"before newnew after"


def test_places_that_are_never_written(tmp_path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(tmp_path / "socket"))
        for attempt in (check_writable, write):
            with pytest.raises(InputError, match="it is a socket"):
                attempt(tmp_path / "socket")
    block = tmp_path / "disk"
    try:
        os.mknod(block, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("only root makes devices")
    for attempt in (check_writable, write):
        with pytest.raises(InputError, match="it is a block device"):
            attempt(block)
    assert stat.S_ISBLK(block.stat().st_mode)


def test_a_file_that_is_read_only_stays(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o444)
    for attempt in (check_writable, write):
        with pytest.raises(InputError, match="it is read-only: name another file with `out`"):
            attempt(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"


@contextlib.contextmanager
def small_disk(size):
    """Limit the size of files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_tensor(part):
    torch.save({"x": torch.ones(100_000)}, part)


def save_arrays(part):
    with open(part, "wb") as file:
        np.savez(file, x=np.ones(100_000))


@pytest.mark.parametrize("save", [save_tensor, save_arrays, lambda part: part.write_text("x" * 100_000)])
@pytest.mark.parametrize("names", [1, 2])
def test_a_full_disk_says_so_in_one_line_and_leaves_what_was_there(tmp_path, save, names):
    path = tmp_path / "file"
    path.write_text("old")
    if names == 2:
        (tmp_path / "second").hardlink_to(path)
    with small_disk(10_000), pytest.raises(InputError) as caught, atomic_write(path, "--there") as part:
        save(part)
    assert str(caught.value) == f"cannot write {path}: File too large: make room, or name another place with --there"
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == names


def test_another_error_of_torch_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), atomic_write(tmp_path / "file"):
        raise RuntimeError("shapes differ")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
