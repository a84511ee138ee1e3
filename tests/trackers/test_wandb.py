"""A Weights & Biases run that stays in the run folder."""

import io
import os
import shutil
import subprocess
import sys

import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError

CONFIG = {"adv": "pgd(steps=2)", "lr": 0.1, "track": ("wandb",), "limit_train": None}
SCRIPT = """
import sys, time, torch
from pathlib import Path
from robustcls.core import plugins
for start in (0, 160):
    tracker = plugins.load("tracker", "wandb(project='mylab')")(Path(sys.argv[1]), {"note": "whole configuration"}, start)
    tracker.images(start + 160, "adversarial", torch.rand(3, 8, 8))
    tracker.scalars(start + 160, {"train/loss": 0.5})
    tracker.close()
    time.sleep(1)  # wandb's folders are named by the second
"""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path_factory):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # no API key and no cache of the user
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # so that the tracker does not set it for pytest's process


def has_wandb():
    pytest.importorskip("wandb", reason="needs wandb")


def test_an_offline_run_goes_on_under_its_id_without_a_word_or_a_network(tmp_path, monkeypatch):
    has_wandb()
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    trace, folder = tmp_path / "trace", tmp_path / "run"
    tracer = [shutil.which("strace"), "-f", "-qq", "-e", "trace=connect", "-o", str(trace)]
    if not tracer[0] or subprocess.run([*tracer, "true"], capture_output=True).returncode:
        tracer = []  # then network access is not checked
    done = subprocess.run([*tracer, sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (identity,) = (folder / "wandb" / "run-id").read_text().split()
    logs = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [log.name for log in logs] == [f"run-{identity}.wandb"] * 2
    for log, step in zip(logs, (160, 320), strict=True):
        content = log.read_bytes()
        for text in ("mylab", "whole configuration", "train/loss", f"_step\x82\x01\x03{step}"):  # in protobuf
            assert text.encode("latin1") in content
        assert len(list(log.parent.glob("files/media/images/adversarial_*.png"))) == 1
    if tracer:
        calls = [line for line in trace.read_text().splitlines() if "connect(" in line]
        assert any("AF_UNIX" in call for call in calls)  # the process of wandb
        assert not [call for call in calls if "AF_INET" in call]


def test_nothing_is_written_before_the_first_use(tmp_path):
    has_wandb()
    plugins.load("tracker", "wandb")(tmp_path, CONFIG, 0).close()
    assert not list(tmp_path.iterdir())


def test_a_new_run_in_an_old_folder_gets_its_own_id(tmp_path, monkeypatch):
    has_wandb()
    import wandb

    asked = []

    class Client:
        id = "fresh"

        def log(self, values, **options):
            asked.append((values, options))

    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options) or Client())
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run-id").write_text("old\n")
    for start, identity in ((0, None), (160, "fresh")):
        asked.clear()
        plugins.load("tracker", "wandb(mode='offline')")(tmp_path, CONFIG, start).scalars(320, {"lr": 0.5})
        options, logged = asked
        assert (options["id"], options["resume"], options["mode"]) == (identity, "allow", "offline")
        assert (options["project"], options["config"], options["dir"]) == ("robustcls", CONFIG, tmp_path)
        assert logged == ({"lr": 0.5}, {"step": 320, "commit": True})


@pytest.mark.parametrize(
    ("spec", "variable", "mode"),
    [
        ("wandb", None, "offline"),
        ("wandb", "online", "online"),
        ("wandb", "offline", "offline"),
        ("wandb(mode='online')", None, "online"),
        ("wandb(mode='offline')", "online", "offline"),
    ],
)
def test_it_is_online_only_where_asked(spec, variable, mode, tmp_path, monkeypatch):
    has_wandb()
    import wandb

    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    logins = []
    monkeypatch.setattr(wandb, "login", lambda **options: logins.append(options))
    tracker = plugins.load("tracker", spec)(tmp_path, CONFIG, 0)
    assert tracker.place["mode"] == mode
    assert len(logins) == (mode == "online")


def test_online_without_a_key_is_refused_before_training(tmp_path, monkeypatch):
    has_wandb()
    import wandb

    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal to ask for the key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match=r"^wandb: .*: run `wandb login`, or leave it offline with .*$"):
        plugins.load("tracker", "wandb(mode='online')")(tmp_path, CONFIG, 0)
    wandb.teardown()
    assert not list(tmp_path.iterdir())


def test_what_wandb_refuses_is_one_line(tmp_path, monkeypatch):
    has_wandb()
    import wandb

    def refuse(**options):
        raise wandb.Error("no\n route to host.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(InputError, match="^wandb: no route to host: run `wandb login`, or leave it offline with .*$"):
        plugins.load("tracker", "wandb")(tmp_path, CONFIG, 0).images(1, "adversarial", torch.zeros(3, 8, 8))


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown mode of wandb 'onlin': did you mean 'online'"):
        plugins.load("tracker", "wandb(mode='onlin')")(tmp_path, CONFIG, 0)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"^.* needs wandb: pip install 'robustcls\[wandb\]'$"):
        plugins.load("tracker", "wandb")(tmp_path, CONFIG, 0)
