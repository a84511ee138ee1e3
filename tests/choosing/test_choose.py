"""Choosing among tiny nets on digits: training, files, messages, and resuming."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import robustcls
from robustcls.choosing import choose as module
from robustcls.choosing.choose import choose_given
from robustcls.choosing.halving import Difference, ranked, survivors
from robustcls.choosing.record import Choice
from robustcls.core.errors import InputError
from robustcls.data.splits import load_split
from robustcls.models.checkpoint import restore
from robustcls.models.weights import read_file
from robustcls.results.accuracy import Accuracy
from tests.choosing.conftest import NETS
from tests.helpers.tiny_run import CutError


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_three_nets_two_rungs(options):
    choice = robustcls.choose(NETS, **options | {"seed_noise": 2, "learning_curve": True})
    assert [len(rung.trials) for rung in choice.rungs] == [3, 2]
    for rung in choice.rungs:
        trials = {trial.name: trial for trial in rung.trials}
        order = ranked(
            {name: trial.chooses for name, trial in trials.items()},
            {name: [digit == "1" for digit in trial.clean_right] for name, trial in trials.items()},
        )
        assert [trial.name for trial in rung.trials] == order
        assert rung.kept == survivors(order)
        assert {trial.robust.total for trial in rung.trials} == {options["val_n"]}
    assert choice.winner == choice.rungs[-1].kept[0] == choice.best.name
    assert {rival.second for rival in choice.rivals} == set(NETS) - {choice.winner}
    seeds = [trial.seed for trial in choice.seeds]
    accuracies = [trial.score.accuracy for trial in choice.seeds]
    assert (seeds, choice.noise) == ([0, 1, 2], max(accuracies) - min(accuracies))
    images = {
        read_file(choice.home / trial.folder / "last.pt")["data"] for trial in choice.seeds
    }  # SHA-256 of training and validation images
    assert len(images) == 1
    assert [trial.images for trial in choice.curve] == [40, 80, 160]
    assert len({trial.updates for trial in choice.curve}) == 1
    assert choice.more_data.difference == pytest.approx(choice.curve[2].score.accuracy - choice.curve[1].score.accuracy)
    assert choice.larger_model is not None
    assert any(one.pareto for one in choice.candidates)
    assert choice == Choice.load(choice.home / "choose.json")
    assert json.loads((choice.home / "choose.json").read_text())["schema"] == "robustcls/choose/1"
    for rival in choice.rivals:
        rung = choice.rungs[int(rival.stage[-1]) - 1]
        trials = {trial.name: trial for trial in rung.trials}
        found = Difference.of(trials[choice.winner].chooses, trials[rival.second].chooses)
        assert (rival.difference, tuple(rival.ci95)) == (found.value, found.ci95)
        assert rival.claimable == (found.claimable(choice.noise) and not rival.unequal)  # on a busy machine


def test_digits_are_those_of_the_checkpoint_on_the_validation_images(options):
    choice = robustcls.choose(NETS[:2], **options)
    best = choice.best
    path = choice.home / best.folder / "ckpt.pt"
    model = restore(read_file(path), "", best.name)[0].eval()
    val = load_split(options["data"], "val", n=options["val_n"], limit_train=options["limit_train"])
    x, y = val.batch()
    x_adv = robustcls.attack(model, x, y, "linf:0.15", options["val_attack"])
    with torch.no_grad():
        clean, robust = ((model(images).argmax(1) == y).tolist() for images in (x, x_adv))
    assert [digit == "1" for digit in best.clean_right] == clean
    assert best.chooses == [a and b for a, b in zip(clean, robust, strict=True)]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(options, monkeypatch):
    first = robustcls.choose(NETS, **options)
    before = files(options["out"])
    monkeypatch.setattr("robustcls.choosing.work.run_trial", None)
    monkeypatch.setattr("robustcls.choosing.work.measure", None)
    again = robustcls.choose(NETS, **options)
    assert again == first
    assert files(options["out"]) == before


def test_what_was_cut_off_goes_on_to_the_same_end(options, tmp_path):
    whole = robustcls.choose(NETS[:2], **options)
    batches = []

    def cut(run):
        batches.append((run.state.epoch, run.state.batch))
        if len(batches) == 17:  # in the second epoch of the second candidate, after 10 and 5 batches
            raise CutError

    given = {**options, "arch": tuple(NETS[:2]), "out": str(tmp_path / "other")}
    with pytest.raises(CutError):
        choose_given(given, on_batch=cut)
    assert len(list((tmp_path / "other").rglob("rung1/*.json"))) == 1
    assert not (tmp_path / "other" / "choose.json").exists()
    rest = []
    choice = choose_given(given, on_batch=lambda run: rest.append(run.state.batch))
    assert len(rest) == 5  # only the interrupted epoch is trained again
    for one, other in zip(whole.rungs[0].trials, choice.rungs[0].trials, strict=True):
        assert (one.name, one.clean_right, one.robust_right) == (other.name, other.clean_right, other.robust_right)


@pytest.mark.slow
def test_two_processes_share_the_candidates(options):
    """Each trial is trained once, by one of the processes, and both reach the same choice."""
    code = f"""
import sys
sys.path.insert(0, {str(sys.path[0])!r})
from robustcls.choosing import choose, work
work.epochs_that_fit = lambda *_: 4
choose.latency_of = lambda *_: (1.0, "")
given = { ({**options, "out": str(options["out"]), "arch": tuple(NETS), "seed_noise": 1})!r}
begun = work.run_trial
def run_trial(task, *arguments, **more):
    print(task.folder)
    return begun(task, *arguments, **more)
work.run_trial = run_trial
print("winner", choose.choose_given(given).winner)
"""
    ends = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [end.communicate(timeout=200) for end in ends]
    assert [end.returncode for end in ends] == [0, 0], printed
    lines = [out.splitlines() for out, _ in printed]
    assert lines[0][-1] == lines[1][-1]
    trained = lines[0][:-1] + lines[1][:-1]
    assert len(trained) == len(set(trained)) == 3 + 2 + 1
    assert Choice.load(options["out"] / "choose.json").winner == lines[0][-1].partition(" ")[2]


@pytest.mark.slow
def test_an_absurd_rate_goes_out_first(options, tmp_path):
    for name, rate in (("good", 0.05), ("absurd", 1e30), ("fair", 0.03)):
        (tmp_path / f"{name}.toml").write_text(f'arch = "{NETS[0]}"\naugment = "none"\nlr = {rate}\n')
    recipes = [tmp_path / f"{name}.toml" for name in ("absurd", "good", "fair")]
    choice = robustcls.choose(config=recipes, **options)
    worst = choice.rungs[0].trials[-1]
    assert (worst.name, worst.score.correct) == ("absurd", 0)
    assert worst.failed
    assert "absurd" not in choice.rungs[0].kept
    assert choice.winner in ("good", "fair")


def tripwire(split):
    """Return digits; reading the test split is an error."""
    from robustcls.data.sets.digits import digits

    if split == "test":
        raise AssertionError("the test images were read")
    images = digits(split, size=8)
    return images.pixels, images.labels, images.classes


def test_test_images_are_never_read(options):
    options |= {"data": "tests.choosing.test_choose:tripwire", "seed_noise": 1, "learning_curve": True}
    assert robustcls.choose(NETS[:2], **options).winner in NETS
    with pytest.raises((AssertionError, InputError), match="test images were read"):
        load_split(options["data"], "test")


def test_clean_accuracy_chooses_without_an_attack(options):
    choice = robustcls.choose(NETS[:2], **options | {"val_attack": "none", "adv": "none"})
    assert choice.best.robust is None
    assert choice.best.score == choice.best.clean
    assert choice.chosen_by == "clean accuracy on 40 validation images"


def test_where_nothing_can_be_exported_one_line_says_so(options, monkeypatch):
    monkeypatch.setattr(module, "latency_of", lambda *_: (None, "export needs onnx"))
    choice = robustcls.choose(NETS[:2], **options)
    assert {one.latency_ms for one in choice.candidates} == {None}
    assert choice.remark == "latency was not measured: export needs onnx"


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


BAD = {
    "one candidate": ({"arch": NETS[0]}, "there is nothing to choose"),
    "none": ({}, "there is nothing to choose"),
    "two of one name": ({"arch": [NETS[0], NETS[1], NETS[0]]}, "two candidates are called .*small_cnn"),
    "two spellings of one": (
        {"arch": ["vgg11(width=0.1)", NETS[1], "vgg11(width=0.10)"]},
        "two candidates are called .*vgg11",
    ),
    "no time": ({"minutes": 0}, "is no time"),
    "too short": ({"minutes": 0.001}, "leaves 0.03 s to each of 2 candidates in the only rung, and .*give `minutes="),
    "seeds": ({"seed_noise": -1}, "`seed_noise=-1` is too small"),
    "unknown option": ({"epoch": 3}, "unknown option 'epoch'"),
    "unknown architecture": ({"arch": ["vgg17", NETS[0]]}, "vgg1"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_before_anything_is_trained(case, options):
    changes, words = BAD[case]
    arch = NETS[:2] if case in ("no time", "too short", "seeds", "unknown option") else ()
    with pytest.raises(InputError, match=words) as caught:
        robustcls.choose(**{"arch": arch, **options, **changes})
    assert "\n" not in str(caught.value)
    assert not options["out"].exists()


def test_recipes_that_cannot_be_compared(options, tmp_path):
    base = f'arch = "{NETS[0]}"\naugment = "none"\n'
    a, b = write(tmp_path, "a.toml", base + 'eps = "0.1"\n'), write(tmp_path, "b.toml", base + 'eps = "0.2"\n')
    del options["eps"]
    with pytest.raises(
        InputError, match=r"a has eps 0.1, b 0.2: accuracies cannot be compared: give one `eps` for all"
    ):
        robustcls.choose(config=[a, b], **options)
    (tmp_path / "c").mkdir()
    c = write(tmp_path / "c", "a.toml", base)
    with pytest.raises(InputError, match="two candidates are called a"):
        robustcls.choose(config=[a, c], **options)
    rest = write(tmp_path, "rest.toml", base + 'unlabelled = "rest"\nobjective = "trades"\n')
    with pytest.raises(InputError, match="give `seed_noise=0`"):
        robustcls.choose(config=[rest, b], **options | {"eps": "0.1", "seed_noise": 1})
    assert robustcls.choose(config=[a, b], **options | {"eps": "2/10"}).threat.eps == 0.2


def test_a_folder_of_another_choice(options):
    robustcls.choose(NETS[:2], **options)
    with pytest.raises(InputError, match="holds a choice among other candidates, or with other options"):
        robustcls.choose(NETS, **options)
    with pytest.raises(InputError, match="holds a choice among other candidates, or with other options"):
        robustcls.choose(NETS[:2], **options | {"minutes": 11})


@pytest.mark.slow
def test_a_candidate_at_chance_level_is_recognised(options):
    trial = robustcls.choose(NETS[:2], **options).best
    guess, sure = Accuracy.of(4, 40), Accuracy.of(30, 40)
    assert trial.majority == pytest.approx(0.1, abs=0.05)
    assert replace(trial, clean=guess).guesses
    assert not replace(trial, clean=sure).guesses


def helps(model, x, y, threat, *, generator=None):
    """Replace a misclassified image by a correct one of the same class."""
    right = model(x).argmax(1) == y
    x_adv = x.clone()
    for place in (~right).nonzero().flatten().tolist():
        others = (right & (y == y[place])).nonzero().flatten()
        if len(others):
            x_adv[place] = x[others[0]]
    return x_adv


def test_robust_means_right_without_an_attack_too(options):
    changes = {"eps": "1.0", "val_attack": "tests.choosing.test_choose:helps", "val_n": 60}
    for trial in robustcls.choose(NETS[:2], **options | changes).rungs[0].trials:
        assert 0 < trial.clean.correct < 60
        assert trial.robust_right == trial.clean_right
