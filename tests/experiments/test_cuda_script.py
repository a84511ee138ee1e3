"""experiments/cuda/run.sh on the CPU with tiny models and data: the same steps and files as on a GPU."""

import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from PIL import Image

from tests.helpers import ROOT

SCRIPT = ROOT / "experiments" / "cuda" / "run.sh"
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 25), ("test", 2)):
        for name in ("airplane", "bird", "cat", "deer"):
            target = folder / split / name
            target.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=generator).numpy()
                Image.fromarray(pixels).save(target / f"{number}.png")
    path = folder / "tiny.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for split in ("train", "test"):
            tar.add(folder / split, split)
    return path


def run(*arguments, **environment):
    environment = os.environ | {"PYTHON": sys.executable, "DEVICE": "cpu", "SCALE": "tiny"} | environment
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_every_step_is_listed_and_written():
    listed = [line.split()[0] for line in run("--list").stdout.splitlines()]
    assert listed[:4] == ["correctness", "bench_vgg16", "record_first", "record_part"]
    written = [line.split("(")[0] for line in SCRIPT.read_text().splitlines() if line.startswith("step_")]
    assert {f"step_{name}" for name in listed} == set(written)
    least, limits = ([int(line.split()[place]) for line in run("--list").stdout.splitlines()] for place in (1, 2))
    assert all(one <= other <= 530 for one, other in zip(least, limits, strict=True))
    stopping, unpacking = 10, 40
    assert sum(limits[:4]) + 4 * stopping + unpacking <= 12 * 60  # the first figure of the record fits into one call


@pytest.mark.slow
def test_the_record_in_two_calls_on_a_tiny_archive(archive, tmp_path):
    first = run(archive, tmp_path / "out", "record_first", "record_part")
    assert first.returncode == 0, first.stderr
    log = (tmp_path / "out" / "record_first.log").read_text()
    assert "record_first: done" in first.stdout, log
    assert "record_part: done" in first.stdout, (tmp_path / "out" / "record_part.log").read_text()
    second = run(archive, tmp_path / "out", "record_first", "record_rest", "record_fast")
    assert "record_first: in OUT already" in second.stdout
    assert "record_fast: done" in second.stdout, (tmp_path / "out" / "record_fast.log").read_text()
    evaluation = json.loads((tmp_path / "out" / "record_fast.json").read_text())
    assert evaluation["robust"]["kind"] == "upper bound: fast"
    assert str(tmp_path) not in json.dumps(evaluation)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [summary["steps"][name]["status"] for name in ("record_rest", "record_fast")] == ["done", "done"]
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as tar:
        names = tar.getnames()
    assert {"./record_fast.json", "./record/history.jsonl", "./summary.json", "./record_rest.log"} <= set(names)
    assert not any(name.endswith(".pt") for name in names)


@pytest.mark.slow
def test_a_step_fails_and_the_others_wait_for_it_and_for_their_time(archive, tmp_path):
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "last.pt").write_text("of no run")
    found = run(archive, tmp_path, "record_rest", "record_fast", "bench_more", MINUTES="4")
    assert found.returncode == 0, found.stderr
    assert "last.pt" in (tmp_path / "record_rest.log").read_text()
    steps = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert {name: (step["status"], step["file"]) for name, step in steps.items()} == {
        "record_rest": ("failed with status 2", None),
        "record_fast": ("skipped, needs record/ckpt.done", None),
        "bench_more": ("left for another call, needs 300 s", None),
    }


def test_a_step_that_is_late_is_cut_and_the_next_one_runs(archive, tmp_path):
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "last.pt").write_text("of no run")
    found = run(archive, tmp_path, "bench_vgg16", "record_rest", LIMIT="1")
    assert "bench_vgg16: cut at 1 s" in found.stdout
    assert "record_rest: " in found.stdout
    steps = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert list(steps) == ["bench_vgg16", "record_rest"]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_tests_that_were_all_skipped_are_no_correctness(archive, tmp_path):
    found = run(archive, tmp_path, "correctness", DEVICE="cuda")
    assert "correctness: failed with status 1" in found.stdout
    assert not (tmp_path / "correctness.xml").exists()


def test_a_step_that_is_not_known(archive, tmp_path):
    found = run(archive, tmp_path, "record_frist")
    assert (found.returncode, "no step record_frist" in found.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [[], ["nowhere.tar"], ["nowhere.tar", "out"]])
def test_wrong_use_ends_in_status_2(arguments, tmp_path):
    arguments = [str(tmp_path / argument) for argument in arguments]
    found = run(*arguments)
    assert found.returncode == 2
    assert ("no archive" in found.stderr) == (len(arguments) == 2)
