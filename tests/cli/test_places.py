"""Output paths: what is refused, followed or written through, and that no earlier result is lost."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from robustcls.cli.places import models_of
from robustcls.results.records import Evaluation

HOLD = """
import sys
from robustcls.core.claims import claim
with claim(sys.argv[1], folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""
SMALL = ("--n", 10, "--attack", "fgsm", "--device", "cpu")
QUICK = ("--profile", "quick", "--n", 12, "--attack", "fgsm", "--method", "saliency", "--examples", 2, "--maps-n", 2)
CODE = ("--data", "digits(size=8)", "--eps", 0.1)
TRAIN = ("train", "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--adv", "none", "--augment", "none")
TRAIN += ("--limit-train", 64, "--batch-size", 32, "--val-n", 16, "--epochs", 1, "--eps", 0.1, "--device", "cpu")


def interrupt(*_, **__):
    raise KeyboardInterrupt


@contextmanager
def another_run(place, kind="file"):
    """Start a process that writes to this path; yield its process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()


@contextmanager
def small_disk(size):
    """Limit the size of files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def checkpoint(home, tmp_path):
    """Return the name of a copy of a checkpoint; tests may write files beside the copy."""
    shutil.copy(home / "pgd" / "ckpt.pt", tmp_path / "here" / "pgd.pt")
    return "pgd.pt"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Two runs with the same output path


COMMANDS = {  # the path that the command claims, its kind, the command
    "attack": ("evaluation.json", "file", ("attack", "--model", "pgd.pt", *SMALL)),
    "attack --out": ("e.json", "file", ("attack", "--model", "pgd.pt", *SMALL, "--out", "e.json")),
    "attack --save-examples": ("e.npz", "file", ("attack", "--model", "pgd.pt", *SMALL, "--save-examples", "e.npz")),
    "attack --resume": ("evaluation.json", "file", ("attack", "--model", "pgd.pt", *SMALL, "--resume")),
    "explain": ("explain", "folder", ("explain", "--model", "pgd.pt", "--n", 2, "--attack", "fgsm")),
    "report": ("evaluation.json", "file", ("report", "--model", "pgd.pt", *QUICK)),
    "report --out": ("r.html", "file", ("report", "a.json", "--out", "r.html")),
    "report --model-card": ("MODEL_CARD.md", "file", ("report", "a.json", "--model-card")),
    "report --assets": ("images", "folder", ("report", "a.json", "--assets", "images")),
    "train": ("run", "folder", (*TRAIN, "--out", "run")),
    "train --resume": ("begun", "folder", ("train", "--resume", "begun")),
    "bench": ("b.json", "file", ("bench", "--suite", "explain", "--model", "pgd.pt", "--out", "b.json")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_run_is_refused_before_it_harms_anything(name, cli, home, checkpoint, tmp_path):
    here = tmp_path / "here"
    shutil.copy(home / "a.json", here / "a.json")
    shutil.copytree(home / "pgd", here / "begun")
    place, kind, arguments = COMMANDS[name]
    with another_run(here / place, kind) as number:
        before = files(here)
        result = cli(*arguments)
        assert result.status == 2
        assert result.err.splitlines()[-1].startswith(f"robustcls: {place} is being written by process {number} on ")
        assert "name another place with --" in result.err
        assert files(here) == before


@pytest.mark.slow
def test_what_another_run_kept_is_not_read_without_resume(cli, checkpoint, tmp_path):
    """The copied files stand for those of another run that writes into the folder at the same time."""
    big = ("attack", "--model", checkpoint, "--n", 40, "--batch-size", 8, "--device", "cpu", "--attack", "pgd(steps=4)")
    assert cli(*big, "--eps", 0.05, "--attack", "my_plugins:interrupt").status == 130
    left = tmp_path / "here" / "evaluation.json.partial"
    assert len(list(left.glob("*.pt"))) > 2
    shutil.copytree(left, tmp_path / "kept")
    assert cli(*big, "--eps", 0.01, "--out", "alone.json").status == 0
    assert cli(*big, "--eps", 0.01, "--attack", "my_plugins:interrupt").status == 130
    for file in (tmp_path / "kept").glob("*.pt"):
        shutil.copy(file, left)
    result = cli(*big, "--eps", 0.01, "--attack", "fgsm", "--resume")
    assert "another attacks" in result.err
    task = json.loads((left / "task.json").read_text()) | {"attacks": ["pgd(steps=4)"]}
    (left / "task.json").write_text(json.dumps(task), encoding="utf-8")
    assert cli(*big, "--eps", 0.01, "--resume").status == 0
    found, alone = Evaluation.load("evaluation.json"), Evaluation.load("alone.json")
    assert found.samples == alone.samples
    assert all(one.distance <= 0.01 + 1e-6 for one in found.samples if one.distance is not None)


# Earlier results that no option names are not lost


def test_models_from_code_do_not_replace_each_others_evaluation(cli, tmp_path):
    (tmp_path / "more.py").write_text("from my_plugins import net as other\n", encoding="utf-8")
    first = ("attack", "--model", "my_plugins:net", *CODE, *SMALL, "--quiet")
    second = ("attack", "--model", "more:other", *CODE, *SMALL, "--quiet")
    assert [cli(*first).status for _ in range(2)] == [0, 0], "the same command can be repeated"
    before = files(tmp_path / "here")
    result = cli(*second)
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "evaluation.json is about another model, my_plugins:net" in result.err
    assert "--overwrite" in result.err
    assert files(tmp_path / "here") == before
    assert cli(*second, "--out", "e.json").status == cli(*second, "--overwrite").status == 0
    assert Evaluation.load("evaluation.json").model.name == "more:other"


@pytest.mark.slow
def test_another_evaluation_of_the_same_model_is_kept(cli, checkpoint, tmp_path):
    here = tmp_path / "here"
    attack = ("attack", "--model", checkpoint, "--quiet", "--n")
    assert [cli(*attack, 20, "--attack", "fgsm").status for _ in range(2)] == [0, 0]
    assert not list(here.glob("*earlier*")), "repeating the same command keeps no copy"
    first = (here / "evaluation.json").read_text(encoding="utf-8")
    result = cli(*attack, 10, "--attack", "fgsm", "--eps", "1/255")
    assert result.status == 0
    assert Evaluation.load("evaluation.json").threat.eps_text == "1/255"
    said = "kept the earlier evaluation (fgsm, linf 0.06, n = 20) as evaluation-earlier.json"
    assert " ".join(result.err.split()) == said
    assert (here / "evaluation-earlier.json").read_text(encoding="utf-8") == first
    for number, options in enumerate((("noise",), ("noise", "--split", "val")), 2):
        assert cli(*attack, 10, "--attack", *options).status == 0
        assert (here / f"evaluation-earlier-{number}.json").exists()
    assert cli(*attack, 8, "--attack", "noise", "--overwrite").status == 0
    assert cli(*attack, 8, "--attack", "noise", "--out", "evaluation.json").status == 0
    assert len(list(here.glob("*earlier*"))) == 3


@pytest.mark.slow
def test_loops_over_radii_keep_one_evaluation_of_each(cli, checkpoint, tmp_path):
    for _ in range(3):
        for eps in ("1/255", "2/255"):
            assert cli("attack", "--model", checkpoint, *SMALL, "--eps", eps).status == 0
            assert Evaluation.load("evaluation.json").threat.eps_text == eps
    kept = sorted(Evaluation.load(file).threat.eps_text for file in (tmp_path / "here").glob("*earlier*.json"))
    assert kept == ["1/255", "2/255"]


@pytest.mark.slow
def test_a_report_keeps_a_larger_evaluation_and_what_only_it_measured(cli, checkpoint, tmp_path):
    assert cli("attack", "--model", checkpoint, "--attack", "fgsm", "--n", 20, "--quiet").status == 0
    result = cli("report", "--model", checkpoint, *QUICK)
    assert (result.status, "n = 20) as evaluation-earlier.json" in " ".join(result.err.split())) == (0, True)
    assert Evaluation.load("evaluation-earlier.json").data.n == 20
    assert cli("attack", "--model", checkpoint, *SMALL).status == 0
    assert Evaluation.load("evaluation-earlier-2.json").calibration is not None
    assert Evaluation.load("evaluation.json").calibration is None


@pytest.mark.parametrize("content", ['{"mine": 1}', "no JSON at all"])
def test_a_file_of_somebody_else_stays(content, cli, checkpoint, tmp_path):
    (tmp_path / "here" / "evaluation.json").write_text(content, encoding="utf-8")
    result = cli("attack", "--model", checkpoint, *SMALL)
    assert (result.status, "was not made by this command" in result.err) == (2, True)
    assert (tmp_path / "here" / "evaluation.json").read_text(encoding="utf-8") == content


@pytest.mark.slow
def test_a_report_keeps_its_files_together(cli, tmp_path):
    here = tmp_path / "here"
    (here / "evaluation.json").write_text('{"mine": 1}', encoding="utf-8")
    (here / "MODEL_CARD.md").write_text("mine", encoding="utf-8")
    command = ("report", "--model", "my_plugins:net", *CODE, *QUICK, "--model-card", "--out", "new/report.html")
    for _ in range(2):
        result = cli(*command)
        assert result.status == 0, result.err
    assert (here / "evaluation.json").read_text(encoding="utf-8") == '{"mine": 1}'
    assert (here / "MODEL_CARD.md").read_text(encoding="utf-8") == "mine"
    assert {"report.html", "evaluation.json", "MODEL_CARD.md"} == set(files(here / "new"))
    for name in files(here / "new"):
        assert models_of(here / "new" / name) == {"my_plugins:net"}
    (here / "new" / "MODEL_CARD.md").write_text("by hand", encoding="utf-8")
    before = files(here)
    result = cli(*command)
    assert (result.status, "new/MODEL_CARD.md was not made by this command" in result.err) == (2, True)
    assert files(here) == before


def test_the_default_page_of_other_models_stays(cli, home, tmp_path):
    for name in "ab":
        shutil.copy(home / f"{name}.json", tmp_path / "here" / f"{name}.json")
    assert [cli("report", "a.json").status for _ in range(2)] == [0, 0]
    refused = cli("report", "b.json")
    assert (refused.status, "report.html is about another model" in refused.err) == (2, True)
    assert cli("report", "b.json", "--overwrite").status == cli("report", "a.json", "b.json").status == 0


@pytest.mark.slow
def test_an_explanation_removes_no_pictures_but_its_own(cli, checkpoint, tmp_path):
    folder = tmp_path / "here" / "explain"
    folder.mkdir()
    (folder / "sample-00001.png").write_text("mine")
    command = ("explain", "--model", checkpoint, "--n", 4, "--attack", "fgsm", "--method", "saliency", "--pictures")
    assert cli(*command, 0).status == 0
    assert (folder / "sample-00001.png").read_text() == "mine"
    record = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    record["model"]["name"] = "other/net.pt"
    (folder / "measures.json").write_text(json.dumps(record), encoding="utf-8")
    before = files(folder)
    assert cli(*command, 0).status == 2
    assert files(folder) == before
    assert cli(*command, 0, "--overwrite").status == 0


def test_training_does_not_replace_its_own_configuration_file(cli, tmp_path):
    folder = tmp_path / "here" / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("epochs = 1\n", encoding="utf-8")
    result = cli(*TRAIN, "--config", "run/config.toml", "--out", "run")
    assert (result.status, "is an input of this command" in result.err) == (2, True)
    assert files(folder) == {"config.toml": b"epochs = 1\n"}


# Pipes, devices, links


def test_a_pipe_takes_the_evaluation_and_another_the_examples(cli, checkpoint, tmp_path):
    here, got = tmp_path / "here", {}
    for name in ("e", "x"):
        os.mkfifo(here / name)
    readers = [
        threading.Thread(target=lambda name=name: got.update({name: (here / name).read_bytes()})) for name in "ex"
    ]
    for reader in readers:
        reader.start()
    result = cli("attack", "--model", checkpoint, *SMALL, "--out", "e", "--save-examples", "x")
    assert result.status == 0, result.err
    for reader in readers:
        reader.join()
    assert Evaluation.from_json(got["e"].decode()).data.n == 10
    (tmp_path / "x.npz").write_bytes(got["x"])
    assert np.load(tmp_path / "x.npz")["x"].shape[1:] == (1, 8, 8)
    assert all(stat.S_ISFIFO((here / name).stat().st_mode) for name in "ex")
    assert sorted(path.name for path in here.iterdir()) == ["e", "pgd.pt", "x"]
    refused = cli("attack", "--model", checkpoint, *SMALL, "--out", "e", "--resume")
    assert (refused.status, "nothing is kept for --resume" in refused.err) == (2, True)


def test_a_device_stays_a_device_in_every_command(cli, home, checkpoint):
    before = os.stat(os.devnull)
    for command in (
        ("attack", "--model", checkpoint, *SMALL, "--out", os.devnull, "--save-examples", os.devnull),
        ("report", home / "a.json", "--out", os.devnull),
        ("gate", home / "a.json", "--min-clean", 0.1, "--junit", os.devnull),
    ):
        result = cli(*command)
        assert result.status == 0, result.err
    assert os.stat(os.devnull) == before
    assert not [name for name in os.listdir("/dev") if name.startswith((".null", "null."))]
    refused = cli("report", home / "a.json", "--out", os.devnull, "--assets", "images")
    assert (refused.status, "--assets lie beside a page" in refused.err) == (2, True)


def test_links_are_followed_by_every_command(cli, home, checkpoint, tmp_path):
    here, real = tmp_path / "here", tmp_path / "real"
    real.mkdir()
    commands = {
        "e.json": ("attack", "--model", checkpoint, *SMALL, "--out", "e.json", "--save-examples", "x.npz"),
        "x.npz": (),
        "r.html": ("report", home / "a.json", "--out", "r.html"),
        "j.xml": ("gate", home / "a.json", "--min-clean", 0.1, "--junit", "j.xml"),
    }
    for name in commands:
        (real / name).write_text("old")
        (here / name).symlink_to(real / name)
    for command in filter(None, commands.values()):
        assert cli(*command).status == 0
    for name in commands:
        assert (here / name).is_symlink()
        assert (real / name).stat().st_size > 100
    assert set(os.listdir(real)) == set(commands)


# Redaction


def pixels_in(folder):
    """Return the files that contain images or maps: an array in a gallery, a picture in a page, or a picture file."""
    found = []
    for name, content in files(folder).items():
        if name.endswith(".json") and b'"gallery": {' in content:
            examples = Evaluation.load(folder / name).gallery.examples
            arrays = [
                array
                for one in examples
                for array in (one.clean, one.adversarial, one.perturbation, *(each.values for each in one.maps))
            ]
            assert examples
            found += [name] * any(array.decode().size for array in arrays)
        elif name.endswith(".html"):
            found += [name] * (b'src="data:image' in content or b"class=strip" in content)
        else:
            found += [name] * name.endswith((".png", ".npz"))
    return found


@pytest.mark.slow
def test_redaction_covers_every_file(cli, checkpoint, tmp_path, monkeypatch):
    from robustcls.evaluation.measures.corruptions import measure as corruptions

    here = tmp_path / "here"
    command = ("report", "--model", checkpoint, *QUICK, "--model-card", "--assets", "images")
    assert cli(*command, "--redact-images").status == 0
    assert {"evaluation.json", "report.html", "MODEL_CARD.md"} <= set(files(here))
    assert pixels_in(here) == []
    again = cli("report", "evaluation.json", "--out", "again.html")
    assert (again.status, again.err) == (0, "")
    assert "withheld on request" in (here / "again.html").read_text(encoding="utf-8")
    assert cli("gate", "evaluation.json", "--min-clean", 0.01).status in (0, 3)
    assert cli("compare", "evaluation.json", "evaluation.json").status == 0
    quiet = cli("report", "evaluation.json", "--redact-images", "--out", "again.html")
    assert (quiet.status, quiet.err) == (0, "")

    monkeypatch.setattr(corruptions, "measure", interrupt)
    assert cli(*command, "--redact-images", "--corruptions-n", 5).status == 130
    assert "evaluation-unfinished.json" in files(here)
    assert pixels_in(here) == []
    assert cli(*command).status == 0
    assert {"evaluation.json"} < set(pixels_in(here)), "without redaction, pixels_in does find images"
    said = cli("report", "evaluation.json", "--redact-images", "--out", "page.html")
    assert said.status == 0
    assert " ".join(said.err.split()) == "the images are left out of the page alone: evaluation.json still holds them"
    assert "page.html" not in pixels_in(here)


# A full disk


@pytest.mark.parametrize("room", [0, 3000])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("evaluation.json", ("attack", "--model", "pgd.pt", *SMALL)),
        ("explain", ("explain", "--model", "pgd.pt", "--n", 4, "--attack", "fgsm", "--method", "saliency")),
        ("evaluation", ("report", "--model", "pgd.pt", *QUICK)),
        ("report.html", ("report", "a.json")),
        ("run", (*TRAIN, "--out", "run")),
        ("begun", ("train", "--resume", "begun")),
        ("j.xml", ("gate", "a.json", "--min-clean", 0.1, "--junit", "j.xml")),
    ],
)
def test_a_full_disk_is_told_in_one_line_and_nothing_is_left(name, command, room, cli, home, checkpoint, tmp_path):
    here = tmp_path / "here"
    shutil.copy(home / "a.json", here / "a.json")
    if name == "begun":
        unfinished(cli, here)
    before = files(here)
    with small_disk(0 if command[0] == "gate" else room):
        result = cli(*command)
    assert result.status == 2
    last = result.err.splitlines()[-1]
    assert last.startswith("robustcls: cannot write ")
    assert name in last
    assert "File too large: make room" in last
    assert "Traceback" not in result.err
    after = files(here)
    if name == "begun":  # history.jsonl is written first, from last.pt
        before.pop("begun/history.jsonl"), after.pop("begun/history.jsonl")
    assert after == before


def unfinished(cli, here):
    """Make a run that was interrupted after its first epoch."""
    import torch

    from robustcls.models.weights import read_file

    assert cli(*TRAIN, "--out", "begun").status == 0
    content = read_file(here / "begun" / "last.pt")
    content["meta"]["config"]["epochs"] = 2
    torch.save(content, here / "begun" / "last.pt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("command", [("gate", "{a}", "--min-clean", "0.1"), ("compare", "{a}", "{b}"), ("list",)])
def test_a_full_disk_under_the_output(command, home):
    arguments = [one.format(a=home / "a.json", b=home / "b.json") for one in command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "robustcls", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "robustcls: cannot write standard output: No space left on device: make room\n"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_on_a_full_disk_ends_nothing(home, tmp_path):
    arguments = ["attack", "--model", home / "pgd" / "ckpt.pt", *SMALL, "--out", tmp_path / "e.json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tests.helpers.short_checks", *map(str, arguments)],
            stderr=full,
            stdout=subprocess.PIPE,
        )
    assert done.returncode == 0
    assert Evaluation.load(tmp_path / "e.json").data.n == 10


@pytest.mark.slow
def test_messages_stay_out_of_an_output_file_that_is_stdout(home, tmp_path):
    """The command runs in a separate process whose stdout is a file, as with `>` in a shell."""
    command = [
        sys.executable,
        "-m",
        "tests.helpers.short_checks",
        "attack",
        "--model",
        home / "pgd" / "ckpt.pt",
        *SMALL,
        "--quiet",
    ]
    with open(tmp_path / "out.json", "w") as out:
        done = subprocess.run(
            [*map(str, command), "--out", "/dev/stdout"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert Evaluation.load(tmp_path / "out.json").data.n == 10
    assert "upper bound" in done.stderr
