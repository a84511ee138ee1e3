"""Only one run at a time writes to a path, and a run that has ended blocks nobody."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from robustcls.core.claims import claim
from robustcls.core.errors import InputError

HOLD = """
import sys
from robustcls.core.claims import claim
with claim(sys.argv[1], folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path, kind="file"):
    """Hold the path in another process until the end of the block; yield the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_second_is_refused_in_one_line_that_names_the_first(tmp_path, kind):
    place = tmp_path / "new" / "place"
    with another_process(place, kind) as process:
        with pytest.raises(InputError) as caught, claim(place, "--there", folder=kind == "folder"):
            raise AssertionError("it was given twice")
        words = str(caught.value)
        assert all(word in words for word in (str(place), f"process {process.pid} ", "name another place with --there"))
        assert "\n" not in words
        with claim(tmp_path / "other"):
            pass
    with claim(place, folder=kind == "folder"):
        pass
    assert names(tmp_path) == [], "neither locks nor folders are left"


def test_a_killed_run_holds_nobody_up(tmp_path):
    with another_process(tmp_path / "e.json") as process:
        process.kill()
        process.wait()
        assert names(tmp_path) == [".e.json.lock"]
        with claim(tmp_path / "e.json"):
            assert f"process {os.getpid()} " in (tmp_path / ".e.json.lock").read_text()
    assert names(tmp_path) == []


def test_two_names_of_one_file_are_one_place(tmp_path):
    (tmp_path / "link.json").symlink_to("e.json")
    with another_process(tmp_path / "e.json"), pytest.raises(InputError, match=r"link\.json is being written"):
        claim(tmp_path / "link.json").__enter__()


def test_a_command_gives_each_of_its_files_a_place_of_its_own(tmp_path):
    with claim(tmp_path / "a"), pytest.raises(InputError, match="two files of this command"):
        claim(tmp_path / "a").__enter__()
    assert names(tmp_path) == []


def test_after_an_error_nothing_is_left_but_what_was_written(tmp_path):
    def fail(write):
        with claim(tmp_path / "deep" / "er" / "e.json"):
            if write:
                (tmp_path / "deep" / "kept").write_text("x")
            raise KeyError

    for write in (False, True):
        with pytest.raises(KeyError):
            fail(write)
        assert names(tmp_path) == (["deep"] if write else [])
    assert names(tmp_path / "deep") == ["kept"]


def test_devices_and_pipes_need_no_claim(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        with claim(place), claim(place):
            pass
    assert names(tmp_path) == ["pipe"]
