"""The scripts of experiments/choose, on a made-up choice."""

from dataclasses import replace

from experiments.choose import run, table
from robustcls.choosing.record import Choice, Comparison, Contender, Rung, Trial
from robustcls.results.accuracy import Accuracy
from robustcls.results.subject import Provenance, Threat
from tests.helpers.sample_evaluation import sample_evaluation


def trial(name, correct):
    right = "1" * correct + "0" * (40 - correct)
    found = Accuracy.of(correct, 40)
    return Trial(name, "rung 1", f"runs/rung1/{name}", 0, 100, 1, 20, 9.0, 9.5, 1.0, found, found, right, right, 0.1)


def choice(first, second):
    trials = [trial("a", first), trial("b", second)]
    costs = [Contender(name, {"data": "folder:/home/me", "lr": 0.1}, 9, 1.0, 8, 20, 1.0, 1.0, 1.0) for name in "ab"]
    made = Provenance("run /home/me", {"out": "/home/me", "seed": 0}, 0, {}, "cpu", "", "", 1.0)
    rivals = [Comparison.of(*trials, "rung 1", 0.05)]
    return Choice(
        "a",
        "folder:/home/me",
        Threat("linf", 0.1, "0.1"),
        "accuracy",
        1.0,
        costs,
        [Rung(9.0, trials, ["a"])],
        rivals,
        made,
    )


def test_the_table_says_whether_the_winner_won_again():
    found = {name: run.results(sample_evaluation(name, seed=0, n=60)) for name in "ab"}
    shown = table.table(choice(30, 10), found)
    assert "a against b: it was told apart (+50.0 points" in shown
    assert "is level with it in the full run: +0.0 points" in shown
    assert "the choice said that they cannot be told apart" in table.table(choice(21, 20), found)
    unequal = choice(30, 10)
    unequal.rivals = [Comparison.of(replace(trial("a", 30), seconds=38.0), trial("b", 10), "rung 1", 0.05)]
    assert "cannot be told apart, since a had 38 s, b 9.5 (+50.0 points" in table.table(unequal, found)


def test_no_place_of_the_machine_is_kept(tmp_path):
    whole = choice(30, 10)
    run.without_places(whole).save(tmp_path / "choose.json")
    text = (tmp_path / "choose.json").read_text()
    assert "/home/me" not in text
    assert '"lr": 0.1' in text
    assert whole.data == "folder:/home/me"
    assert Choice.load(tmp_path / "choose.json").winner == "a"
