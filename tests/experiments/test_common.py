"""experiments/common.py, and a table of results that it wrote."""

import pytest

from experiments import common
from experiments.audit import table
from tests.helpers.sample_evaluation import sample_evaluation


def test_a_command_returns_what_it_prints_and_its_failure_ends_the_script(capfd):
    assert common.command("--help", capture=True).startswith("Usage: robustcls")
    assert common.command("--help") == ""
    assert capfd.readouterr().out.startswith("Usage: robustcls")
    with pytest.raises(SystemExit) as stop:
        common.command("no_such_command")
    assert stop.value.code == 2


def test_an_interrupted_run_is_resumed_and_an_evaluation_is_made_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(common, "command", lambda *words: said.append(words))
    common.train(tmp_path, "--seed", 0)
    (tmp_path / "last.pt").touch()
    common.train(tmp_path, "--seed", 0)
    assert said == [("train", "--seed", 0, "--out", tmp_path), ("train", "--resume", tmp_path)]
    made = sample_evaluation(n=20)
    made.save(tmp_path / "evaluation.json")
    (tmp_path / "evaluation.json.options").write_text("ckpt.pt --suite fast")
    assert common.attack(tmp_path / "ckpt.pt", "--suite", "fast") == made
    assert len(said) == 2


def test_what_was_made_with_other_options_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "command", lambda *words: (tmp_path / "run").mkdir(exist_ok=True))
    run = tmp_path / "run"
    common.train(run, "--data", "digits", "--epochs", 4)
    (run / "last.pt").touch()
    common.train(run, "--data", "digits", "--epochs", 4)
    with pytest.raises(SystemExit, match=f"{run} was made with other options"):
        common.train(run, "--data", "cifar10", "--epochs", 39)
    sample_evaluation(n=20).save(run / "evaluation.json")
    with pytest.raises(SystemExit, match="evaluation.json was made with other options"):
        common.attack(run / "ckpt.pt", "--suite", "fast")


def test_results_are_written_and_read(tmp_path):
    file, made = tmp_path / "new" / "results.json", sample_evaluation(n=40)
    assert common.read(file) == {"rows": []}
    common.write({"rows": [common.outcome(made)]}, file)
    (row,) = common.read(file)["rows"]
    assert common.percent(row["robust"]) == pytest.approx(100 * made.robust.accuracy)
    assert row["threat"] == "linf 8/255"
    assert common.flags(common.bits([True, False])) == [True, False]
    assert common.bits([True, False]) == "10"


def test_the_table_of_the_audit_pairs_its_arms_by_seed(tmp_path):
    quality = dict.fromkeys(("average_precision", "precision_of_issues", "recall_of_issues", "guess_right"), 0.5)
    for seed, digits in enumerate(("1100", "1000", "1110")):
        audit = {"seed": seed, "images": 100, "noisy": quality | {"seconds": 60}, "true": {"issues": 5}}
        common.write(audit | {"duplicates": {"found": 1, "planted": 2}}, tmp_path / f"audit_{seed}.json")
        common.write({"right": digits}, tmp_path / f"noisy_standard_{seed}.json")
        common.write({"right": "1111"}, tmp_path / f"true_standard_{seed}.json")
    common.write({"right": "1110"}, tmp_path / "removed_standard_1.json")
    rows = [line.split(" | ") for line in table.table(tmp_path).split("\n\n")[1].splitlines()[2:]]
    assert [row[1] for row in rows] == ["100.0 (100.0, 100.0, 100.0)", "50.0 (50.0, 25.0, 75.0)", "75.0 (75.0)"]
    # Differences of 50, 75 and 25 points: their standard deviation is 25, and the quantile of t for two degrees is 4.303.
    assert rows[0][2].startswith(f"+50.0 [{50 - 4.303 * 25 / 3**0.5:+.1f}, {50 + 4.303 * 25 / 3**0.5:+.1f}]")
    assert rows[2][2].startswith("+50.0 ")
