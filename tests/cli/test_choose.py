"""`robustcls choose`: its tables, and what it refuses."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from robustcls.choosing.record import Choice
from robustcls.cli.choose import _findings, _rung

NETS = [f"tests.helpers.tiny_run:{name}" for name in ("small_cnn", "tiny_net", "flat_net")]
COMMON = ["--data", "digits(size=8)", "--adv", "fgsm", "--eps", "0.1", "--limit-train", "160", "--val-n", "40"]
COMMON += ["--batch-size", "32", "--val-attack", "fgsm", "--device", "cpu", "--precision", "fp32", "--out", "choice"]


def archs(*names):
    return [word for name in names for word in ("--arch", name)]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("robustcls.choosing.work.epochs_that_fit", lambda *_: 2)


@pytest.mark.slow
def test_tables_and_findings(cli, quick):
    result = cli("choose", *archs(*NETS), *COMMON, "--seed-noise", "1", "--learning-curve")
    assert result.status == 0, result.err
    assert max(map(len, (result.out + result.err).splitlines())) <= 80
    out = " ".join(result.out.split())
    assert out.count("rung 1:") == out.count("rung 2:") == 1
    choice = Choice.load("choice/choose.json")
    for trial in choice.rungs[0].trials:
        assert f"{trial.robust.accuracy:.1%} [{100 * trial.robust.ci95[0]:.0f}" in out
    told = [f"{choice.winner} is better than", f"{choice.winner} cannot be told apart from"]
    assert sum(out.count(words) for words in told) == 2
    assert sum(out.count(f"{told[1]} {rival.second}") for rival in choice.open) == len(choice.open)
    assert "the same recipe with 2 seeds differs by" in out
    best, again = (trial.score.accuracy for trial in choice.seeds)
    assert f"with seed 1: {again:.1%}; mean of all 2: {(best + again) / 2:.1%}" in out
    assert "This ignores the intervals, so with few images it is partly chance" in out
    assert choice.provenance.command.startswith("robustcls")
    assert "folder choice" in result.err
    assert "twice the images:" in out
    assert "a larger model:" in out
    assert all(one.latency_ms > 0 for one in choice.candidates)
    assert result.out.splitlines()[-2:] == ["choice/choose.json", f"choice/{choice.best.folder}/ckpt.pt"]
    again = cli("choose", *archs(*NETS), *COMMON, "--seed-noise", "1", "--learning-curve", "--quiet")
    assert (again.status, again.err) == (0, "")
    assert again.out in result.out


BAD = {
    "one": ([*archs(NETS[0]), *COMMON], "each with --arch or --config"),
    "twice": ([*archs(NETS[0], NETS[0]), *COMMON], "give each --config its own file name"),
    "too short": ([*archs(*NETS), *COMMON, "--minutes", "0.001", "--quiet"], "give --minutes 0."),
    "no file": ([*archs(NETS[0]), "--config", "no.toml", *COMMON], "cannot read no.toml"),
    "no radius": ([*archs(*NETS), *COMMON[:4], "--norm", "l2", "--out", "choice"], "--eps"),
    "a wrong attack": ([*archs(*NETS), *COMMON, "--val-attack", "pdg"], "did you mean 'pgd'?"),
    "no data": ([*archs(*NETS), *COMMON, "--data", "digitz"], "did you mean 'digits'?"),
    "no seeds": ([*archs(*NETS), *COMMON, "--seed-noise", "-1"], "--seed-noise -1 is too small"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_status_2_and_nothing_left_behind(case, cli, tmp_path):
    arguments, words = BAD[case]
    result = cli("choose", *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err
    assert not list((tmp_path / "here").rglob("*"))


def test_ctrl_c_is_saved_and_goes_on(cli, quick):
    (one, other), words = NETS[:2], "my_plugins:terminate"
    common = [
        words if word == "fgsm" and place == COMMON.index("--adv") + 1 else word for place, word in enumerate(COMMON)
    ]
    import my_plugins

    my_plugins.batches = -30  # terminates after the rehearsals
    first = cli("choose", *archs(one, other), *common, "--seed-noise", "0")
    assert first.status == 130, first.err
    assert "continue with the same command" in first.err
    again = cli("choose", *archs(one, other), *common, "--seed-noise", "0")
    assert again.status == 0, again.err


def test_ctrl_c_in_a_rehearsal_says_that_nothing_was_saved(cli, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustcls.choosing.work.measure", stopped)
    done = cli("choose", *archs(*NETS[:2]), *COMMON)
    assert done.status == 130
    assert done.err.splitlines()[-1] == "interrupted before the first training run; start again with the same command"


@pytest.mark.slow
def test_ctrl_c_without_a_folder_names_the_one_that_was_taken(cli, quick):
    import my_plugins

    my_plugins.batches = -30  # terminates after the rehearsals
    common = [*archs(*NETS[:2]), *COMMON[:-2], "--adv", "my_plugins:terminate", "--seed-noise", "0"]
    first = cli("choose", *common)
    assert first.status == 130, first.err
    (where,) = Path("runs").glob("choose-digits-*")
    assert f"folder {where}" in first.err
    line = next(line for line in first.err.splitlines() if line.startswith("interrupted"))
    assert line.endswith(f"continue with the same command and --out {where}")
    again = cli("choose", *common, *shlex.split(line.rpartition(" and ")[2]))
    assert again.status == 0, again.err
    assert (where / "choose.json").exists()


@pytest.mark.slow
def test_the_command_is_kept_as_it_was_typed(cli, quick, monkeypatch):
    arguments = ["choose", *archs("tests.helpers.tiny_run:small_cnn", NETS[1]), *COMMON, "--seed-noise", "0"]
    monkeypatch.setattr("sys.argv", ["/home/me/bin/robustcls", *arguments])
    assert cli(*arguments).status == 0
    assert Choice.load("choice/choose.json").provenance.command == shlex.join(["robustcls", *arguments])


@pytest.mark.slow
def test_what_was_unequal_is_said(cli, quick):
    arguments = (*archs(*NETS[:2]), *COMMON, "--seed-noise", "1", "--learning-curve")
    assert cli("choose", *arguments).status == 0
    choice = Choice.load("choice/choose.json")
    rung = replace(choice.rungs[0], unequal="a had 38 s, b 19")
    assert "unequal: a had 38 s, b 19: differences between them may be due to the time" in _rung(1, rung)
    choice.rivals[0].unequal, choice.rivals[0].claimable = "a had 38 s, b 19", False
    choice.seeds[1].updates, choice.curve[0].updates = 4, 2
    choice.more_data.unequal = "160 images had 10 updates, 80 images 4"
    found = "\n".join(_findings(choice))
    assert f"cannot be told apart from {choice.rivals[0].second}" in found
    assert "rung 1; a had 38 s, b 19" in found
    assert "with seed 1:" in found
    assert "after 4 updates, not 10; mean of all 2" in found
    assert "for 2, 10, 10 updates: 40 images" in found
    assert "each for about as many updates" not in found
    assert "160 images had 10 updates, 80 images 4)" in found


def test_a_folder_of_a_training_run_is_refused(cli):
    Path("choice").mkdir()
    Path("choice/last.pt").write_bytes(b"weights")
    result = cli("choose", *archs(*NETS), *COMMON)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "choice already holds a run of `robustcls train`: name another --out" in result.err
    assert [one.name for one in Path("choice").iterdir()] == ["last.pt"]
