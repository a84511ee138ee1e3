"""Wrong input of any kind: exit status 2, one line on stderr that says how to fix it, nothing left behind."""

import os

import pytest
import torch

from robustcls.results import policy

ATTACK = ["attack", "--model", "{home}/pgd/ckpt.pt", "--n", "10", "--attack", "fgsm"]
L0 = ["attack", "--model", "{home}/pgd/ckpt.pt", "--n", "10", "--attack", "sigma_zero", "--norm", "l0"]
TRAIN = ["train", "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--epochs", "1", "--limit-train", "64"]
EXPLAIN = ["explain", "--model", "{home}/pgd/ckpt.pt", "--n", "2", "--attack", "fgsm"]
REPORT = ["report", "--model", "{home}/pgd/ckpt.pt", "--n", "10", "--attack", "fgsm"]


def model(name, *more):
    return ["attack", "--n", "10", "--attack", "fgsm", "--model", name, *more]


# For each case, the command line and the words that the error message must contain.
BAD = {
    "no checkpoint": (model("{home}/none.pt"), "no file"),
    "truncated checkpoint": (model("{home}/truncated.pt"), "truncated or damaged"),
    "pickle": (model("{home}/evil.pt"), "could run code"),
    "code as a checkpoint's data": (model("{home}/trap.pt"), "asks to run shutil:rmtree for its data"),
    "folder as checkpoint": (model("{home}/pgd"), "it is a run folder: give"),
    "checkpoint for other classes": (model("{home}/two.pt"), "knows 2 classes (a, b), the data has 10"),
    "checkpoint for other images": (model("{home}/pgd/ckpt.pt", "--data", "digits"), "the model takes 1x8x8"),
    "checkpoint for colour": (model("{home}/colour.pt", "--data", "digits(size=8)"), "the model takes 3x8x8"),
    "checkpoint of pictures": (model("{home}/pgd/ckpt.pt", "--data", "folder:{home}/images"), "the data has 2"),
    "weights without --arch": (model("{home}/two-weights.pt"), "name it with --arch"),
    "weights and --arch": (model("{home}/two-weights.pt", "--arch", "vgg166"), "did you mean 'vgg16'?"),
    "weights and width": (model("{home}/two-weights.pt", "--arch", "vgg16"), "the architecture wants (64, 1, 3, 3)"),
    "weights and mean": (model("{home}/two-weights.pt", "--mean", "0.5;0.5"), "write it as 0.49,0.48,0.45"),
    "model in no module": (model("no_such_module:net"), "no module 'no_such_module'"),
    "model that is none": (model("my_plugins:nothing"), "has no 'nothing'"),
    "model that fails": (model("my_plugins:boom"), "RuntimeError: boom"),
    "unknown attack": ([*ATTACK, "--attack", "pdg"], "did you mean 'pgd'?"),
    "unknown option of an attack": ([*ATTACK, "--attack", "pgd(step=3)"], "did you mean 'steps'?"),
    "attack that keeps the label": ([*ATTACK, "--attack", "interpretation"], "explain --attack interpretation"),
    "wrong option of an attack": ([*ATTACK, "--attack", "pgd(steps=few)"], "is not a whole number"),
    "wrong type in an attack": ([*ATTACK, "--attack", "pgd(steps=0.5)"], "steps=0.5 is not a whole number"),
    "attack that measures another norm": ([*ATTACK, "--attack", "ddn"], "ddn measures l2, not linf"),
    "foolbox's attack of another norm": ([*ATTACK, "--attack", "boundary"], "boundary measures l2, not linf"),
    "value out of range in a later attack": ([*ATTACK, "--attack", "pgd(steps=0)"], "give 1 or more of each"),
    "report: attack that measures another norm": ([*REPORT, "--attack", "cw"], "cw measures l2, not linf"),
    "unknown suite": (["attack", "--model", "{home}/pgd/ckpt.pt", "--suite", "fats"], "did you mean 'fast'?"),
    "--attack and --suite": ([*ATTACK, "--suite", "fast"], "both --attack and --suite"),
    "l0 with a fractional eps": ([*ATTACK, "--norm", "l0", "--eps", "0.5"], "not a whole number"),
    "l0 with more values than there are": ([*L0, "--eps", "65"], "images of 1 x 8 x 8 are at most 64 apart: give"),
    "l0 with more values than the mask has": (
        [*L0, "--eps", "26", "--mask", "{home}/corner.png"], "at most 25 apart in mask corner.png: give",
    ),
    "l0 with a fraction in --eps-grid": (
        [*L0, "--eps", "5", "--eps-grid", "1,2.5"], "--eps-grid: l0 eps 2.5 is not a whole number",
    ),
    "l0 with more values in --eps-grid": (
        [*L0, "--eps", "5", "--eps-grid", "1,26", "--mask", "{home}/corner.png"],
        "--eps-grid: l0 eps 26 is too large",
    ),
    "l0 under an attack of other norms": ([*ATTACK, "--norm", "l0", "--eps", "5"], "fgsm does not know l0"),
    "l0 under standard": ([*ATTACK[:5], "--suite", "standard", "--norm", "l0", "--eps", "5"], "standard has no l0"),
    "no mask": ([*ATTACK, "--mask", "none.png"], "mask none.png is not a file"),
    "mask that is no image": ([*ATTACK, "--mask", "{home}/pgd/ckpt.pt"], "is not an image"),
    "mask of another size": ([*ATTACK, "--mask", "{home}/wide.png"], "8 x 9 pixels, the images 8 x 8"),
    "mask of 16 bits": ([*ATTACK, "--mask", "{home}/deep.png"], "has more than 8 bits a value"),
    "mask without a pixel": ([*ATTACK, "--mask", "{home}/black.png"], "mask black.png lets no pixel change"),
    "mask under standard": (
        [*ATTACK[:5], "--suite", "standard", "--mask", "{home}/corner.png"],
        "fab_t does not know a mask",
    ),
    "less than a grey level": ([*ATTACK, "--eight-bit", "--eps", "0.001"], "less than a grey level"),
    "--fpr without a detector": ([*ATTACK, "--fpr", "0.05"], "--fpr 0.05 needs a detector, and there is none"),
    "report: --fpr without a detector": ([*REPORT, "--fpr", "0.1"], "give --detector, or leave out --fpr"),
    "--eps abc": ([*ATTACK, "--eps", "abc"], "such as 8/255"),
    "--eps 0/0": ([*ATTACK, "--eps", "0/0"], "such as 8/255"),
    "--eps -1": ([*ATTACK, "--eps", "-1"], "not negative"),
    "--eps nan": ([*ATTACK, "--eps", "nan"], "such as 8/255"),
    "--eps in grey levels": ([*ATTACK, "--eps", "8"], "did you mean 8/255?"),
    "--eps-grid in grey levels": ([*ATTACK, "--eps-grid", "0,1/255,8"], "did you mean 8/255?"),
    "l2 --eps in grey levels": ([*ATTACK, "--norm", "l2", "--eps", "128"], "did you mean 128/255?"),
    "a step in grey levels": ([*ATTACK, "--attack", "pgd(step_size=2)"], "did you mean 2/255?"),
    "train: --eps in grey levels": ([*TRAIN, "--eps", "8"], "did you mean 8/255?"),
    "train: l2 --eps in grey levels": ([*TRAIN, "--norm", "l2", "--eps", "128"], "did you mean 128/255?"),
    "train: a step in grey levels": ([*TRAIN, "--adv", "pgd(step_size=2)"], "did you mean 2/255?"),
    "train: a step of validation": ([*TRAIN, "--val-attack", "pgd(step_size=2)"], "did you mean 2/255?"),
    "explain: --eps in grey levels": ([*EXPLAIN, "--eps", "8"], "did you mean 8/255?"),
    "explain: a step in grey levels": ([*EXPLAIN, "--attack", "pgd(step_size=2)"], "did you mean 2/255?"),
    "positive of ten classes": ([*ATTACK, "--positive", "3"], "there are 10 classes, not two"),
    "a licence of two lines": ([*ATTACK, "--license", "MIT\nother: x"], "is not one line"),
    "report: a licence of two lines": (["report", "{home}/a.json", "--license", "MIT\nx: 1"], "is not one line"),
    "report: positive of ten classes": (["report", "{home}/a.json", "--positive", "3"], "not two"),
    "--norm without --eps": ([*ATTACK, "--norm", "l2"], "give --eps"),
    "unknown --norm": ([*ATTACK, "--norm", "l3"], "linf"),
    "--n 0": ([*ATTACK, "--n", "0"], "give 1 or more, or all"),
    "--n x": ([*ATTACK, "--n", "x"], "give 1 or more, or all"),
    "--batch-size 0": ([*ATTACK, "--batch-size", "0"], "give 1 or more, or auto"),
    "--precision": ([*ATTACK, "--device", "cpu", "--precision", "fp16"], "give fp32"),
    "--split": ([*ATTACK, "--split", "tset"], "val"),
    "no --model": (["attack"], "--model"),
    "stray argument": ([*ATTACK, "stray"], "stray"),
    "--out is a folder": ([*ATTACK, "--out", "{home}/empty"], "is a folder"),
    "--out below a file": ([*ATTACK, "--out", "{home}/a.json/x.json"], "no folder that can be written"),
    "--save-examples below a file": ([*ATTACK, "--save-examples", "{home}/a.json/x.npz"], "no folder"),
    "unknown data": ([*ATTACK, "--data", "digitz"], "did you mean 'digits'?"),
    "no folder": (["train", "--data", "folder:{home}/none"], "no such folder"),
    "folder without images": (["train", "--data", "folder:{home}/empty"], "no images"),
    "folder of one class": (["train", "--data", "folder:{home}/one"], "only one class, 'cat'"),
    "corrupt image": (["train", "--data", "folder:{home}/corrupt"], "--skip-corrupt"),
    "no config": ([*ATTACK, "--config", "{home}/none.toml"], "No such file"),
    "config with an unknown key": ([*ATTACK, "--config", "{home}/unknown.toml"], "unknown option 'stepz'"),
    "config of the wrong type": ([*ATTACK, "--config", "{home}/wrong.toml"], "'seven' is not a whole number"),
    "config that is none": ([*ATTACK, "--config", "{home}/broken.toml"], "is not TOML"),
    "train: config of the wrong type": ([*TRAIN, "--config", "{home}/wrong.toml"], "'seven' is not a whole number"),
    "train: unknown --arch": ([*TRAIN, "--arch", "vgg166"], "did you mean 'vgg16'?"),
    "train: unknown --objective": ([*TRAIN, "--objective", "standart"], "did you mean 'standard'?"),
    "train: unknown --step": ([*TRAIN, "--step", "one"], "did you mean 'once'?"),
    "train: unknown --schedule": ([*TRAIN, "--schedule", "cosin"], "did you mean 'cosine'?"),
    "train: unknown --augment": ([*TRAIN, "--augment", "crop_flap"], "did you mean 'crop_flip'?"),
    "train: unknown --track": ([*TRAIN, "--track", "ledger"], "unknown tracker 'ledger'"),
    "train: wrong --adv": ([*TRAIN, "--adv", "pgd(steps=0)"], "give 1 or more"),
    "train: wrong --val-attack": ([*TRAIN, "--val-attack", "pgd(steps=0)"], "give 1 or more"),
    "train: --adv that keeps the label": ([*TRAIN, "--adv", "interpretation"], "keeps the label"),
    "train: --val-attack that keeps the label": ([*TRAIN, "--val-attack", "interpretation"], "keeps the label"),
    "train: objective without attack": ([*TRAIN, "--adv", "none", "--objective", "adversarial"], "--adv pgd"),
    "train: --batch-size 0": ([*TRAIN, "--batch-size", "0"], "give 1 or more, or auto"),
    "train: --batch-size 1": ([*TRAIN, "--batch-size", "1"], "--limit-train 2 or more"),
    "train: --epochs 0": ([*TRAIN, "--epochs", "0"], "--epochs 0"),
    "train: --lr -1": ([*TRAIN, "--lr", "-1"], "--lr -1.0"),
    "train: --limit-train 0": ([*TRAIN, "--limit-train", "0"], "--limit-train 0"),
    "train: --out below a file": ([*TRAIN, "--out", "{home}/a.json/run"], "no folder that can be written"),
    "train: --out holds a run": ([*TRAIN, "--out", "{home}/pgd"], "resume it with --resume"),
    "train: --resume and flags": (["train", "--resume", "{home}/pgd", "--epochs", "9"], "leave out --epochs"),
    "train: --resume and config": (
        ["train", "--resume", "{home}/pgd", "--config", "{home}/pgd/config.toml"], "leave out --config",
    ),
    "train: --resume nothing": (["train", "--resume", "{home}/empty"], "last.pt"),
    "explain: unknown method": ([*EXPLAIN, "--method", "gradcamm"], "did you mean 'gradcam'?"),
    "explain: --out below a file": ([*EXPLAIN, "--out", "{home}/a.json/x"], "no folder that can be written"),
    "report: nothing": (["report"], "give --model or an evaluation's FILE.json"),
    "report: unknown method": ([*REPORT, "--method", "gradcamm"], "did you mean 'gradcam'?"),
    "report: --out below a file": ([*REPORT, "--out", "{home}/a.json/x.html"], "no folder that can be written"),
    "report: unknown profile": ([*REPORT, "--profile", "slow"], "'quick', 'standard', 'full'"),
    "report: no such policy": (["report", "{home}/a.json", "--policy", "no.toml"], "give a TOML file with --policy"),
    "report: no policy": (["report", "{home}/a.json", "--policy", "{home}/unknown.toml"], "unknown option 'stepz'"),
    "report: no corrupted images": ([*REPORT, "--corruptions-from", "no"], "labels.npy is missing"),
    "report: no folder to list": (["report", "--index", "no"], "no"),
    "report: a share above 1": ([*REPORT, "--min-robust", "40"], "from 0 to 1"),
    "report: the second model is missing": ([*REPORT, "--model", "{home}/none.pt"], "no file"),
    "report: options without a model": (["report", "{home}/a.json", "--n", "10"], "--n says how to measure a model"),
    "report: config without a model": (["report", "{home}/a.json", "--config", "{home}/wrong.toml"], "--config"),
    "report: no evaluation": (["report", "{home}/other.json"], "has schema 'other/1'"),
    "report: no JSON": (["report", "{home}/unknown.toml"], "is not JSON"),
    "gate: no file": (["gate", "{home}/none.json", "--min-robust", "0.4"], "cannot read"),
    "gate: no evaluation": (["gate", "{home}/other.json", "--min-robust", "0.4"], "has schema 'other/1'"),
    "gate: no threshold": (["gate", "{home}/a.json"], "--min-robust, --min-clean or --min-certified"),
    "gate: a share above 1": (["gate", "{home}/a.json", "--min-robust", "40"], "from 0 to 1"),
    "gate: a share in percent": (["gate", "{home}/a.json", "--min-robust", "40"], "did you mean 0.4?"),
    "gate: a share that is none": (["gate", "{home}/a.json", "--min-robust", "nan"], "from 0 to 1"),
    "gate: --junit below a file": (
        ["gate", "{home}/a.json", "--min-robust", "0.4", "--junit", "{home}/b.json/x.xml"], "no folder",
    ),
    "compare: one": (["compare", "{home}/a.json"], "two evaluations or more"),
    "compare: no evaluation": (["compare", "{home}/a.json", "{home}/other.json"], "has schema 'other/1'"),
    "compare: other samples": (["compare", "{home}/a.json", "{home}/otherdata.json"], "the data differ"),
    "compare: other attacks": (["compare", "{home}/a.json", "{home}/otherattack.json"], "the attacks or their options differ"),
    "list: unknown kind": (["list", "attribute"], "did you mean 'attribution'?"),
}  # fmt: skip


def files(*folders):
    return sorted(str(path) for folder in folders for path in folder.rglob("*"))


@pytest.mark.parametrize("case", BAD)
def test_one_line_status_2_and_nothing_left_behind(case, cli, home, tmp_path):
    arguments, words = BAD[case]
    before = files(home)
    result = cli(*[argument.replace("{home}", str(home)) for argument in arguments])
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("robustcls: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1
    assert words in result.err
    assert files(home) == before  # no code was run, and no .part file is left
    assert files(tmp_path / "here") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [ATTACK, TRAIN, EXPLAIN, REPORT])
def test_cuda_where_there_is_none(arguments, cli, home, tmp_path):
    result = cli(*[argument.replace("{home}", str(home)) for argument in arguments], "--device", "cuda")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "give cpu" in result.err
    assert files(tmp_path / "here") == []


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written(cli, home, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    result = cli(*[argument.replace("{home}", str(home)) for argument in ATTACK], "--out", closed / "x.json")
    assert (result.status, result.err.count("\n")) == (2, 1)


def test_debug_shows_the_traceback(cli):
    arguments = model("{home}/none.pt")
    assert "Traceback" not in cli(*arguments).err
    for position in (0, 1, len(arguments)):
        shown = cli(*arguments[:position], "--debug", *arguments[position:])
        assert shown.status == 2
        assert "Traceback" in shown.err
        assert "read_file" in shown.err
        assert shown.err.splitlines()[-1].startswith("robustcls: no file")


def test_a_fault_of_ours_is_one_line_too_and_not_a_failed_gate(cli, home, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(policy, "judge", fail)
    result = cli("gate", home / "a.json", "--min-robust", 0.4)
    assert result.status == 2
    assert result.err == "robustcls: ZeroDivisionError: division by zero; --debug shows where\n"
    assert "Traceback" in cli("gate", home / "a.json", "--min-robust", 0.4, "--debug").err


def test_a_file_that_ends_too_early_is_no_interruption(cli, home, monkeypatch):
    def fail(*_):
        raise EOFError("no data left")

    monkeypatch.setattr(policy, "judge", fail)
    result = cli("gate", home / "a.json", "--min-robust", 0.4)
    assert (result.status, result.err.strip()) == (2, "robustcls: EOFError: no data left; --debug shows where")
