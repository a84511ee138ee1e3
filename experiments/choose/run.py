"""Chooses among six architectures in 12 minutes, then trains the last two in full and attacks both on test images.

python experiments/choose/run.py --data folder:cifar          # 12 minutes, two full runs, two evaluations under `fast`
python experiments/choose/run.py --tiny --work runs/tiny --out runs/tiny/reports      # seconds, on the digits

The candidates are full.toml with other architectures and --limit-train images. choose.json and the two evaluations are written
to --out; the table says whether the winner also won the full run. Finished parts are not repeated.
"""

import argparse
import copy
import shutil
from pathlib import Path

import robustcls
from robustcls import Evaluation
from robustcls.choosing.record import Choice, Trial
from robustcls.cli.console import markdown, with_interval
from robustcls.cli.main import main as run_command
from robustcls.results.comparison import held
from robustcls.results.statistics import paired_difference

HERE = Path(__file__).resolve().parent
REPORTS = HERE.parents[1] / "reports" / "choose"
ARCHS = (
    "vgg16(width=0.0625)", "vgg16(width=0.125)", "vgg16(width=0.25)", "vgg11(width=0.25)", "resnet18(width=0.125)",
    "resnet18(width=0.25)",
)  # fmt: skip
TINY_ARCHS = ("vgg16(width=0.05)", "vgg16(width=0.1)", "resnet18(width=0.125)")
TINY = [
    "--data", "digits(size=8)", "--eps", "0.1", "--batch-size", "32", "--val-n", "40", "--augment", "none",
    "--limit-train", "200",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose among architectures, and check the choice with full runs.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--limit-train", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=Path("runs/choose"))
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    choice = chosen(given)
    without_places(choice).save(given.out / "choose.json")
    found = {trial.name: full_run(trial, given) for trial in choice.rungs[-1].trials}
    print(table(choice, found))


def chosen(given: argparse.Namespace) -> Choice:
    options = {"data": given.data, "limit_train": given.limit_train, "minutes": given.minutes, "learning_curve": True}
    text = (HERE / "full.toml").read_text(encoding="utf-8")
    if given.tiny:
        options |= {"data": "digits(size=8)", "eps": 0.1, "val_n": 40, "batch_size": 32, "limit_train": 200}
        text += 'augment = "none"\n'
    recipes = given.work / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    files = [recipes / f"{arch}.toml" for arch in (TINY_ARCHS if given.tiny else ARCHS)]
    for file in files:
        file.write_text(text.replace('arch = "vgg16(width=0.25)"', f'arch = "{file.stem}"'), encoding="utf-8")
    return robustcls.choose(config=files, out=given.work / "choice", progress=True, **options)


def without_places(choice: Choice) -> Choice:
    """Return the record without the paths of this machine."""
    copied = copy.deepcopy(choice)
    copied.data, copied.provenance.command = "cifar10", ""
    for config in [copied.provenance.config, *(one.config for one in copied.candidates)]:
        for name in ("data", "data_dir", "out", "config"):
            config.pop(name, None)
    return copied


def full_run(trial: Trial, given: argparse.Namespace) -> Evaluation:
    """Train a candidate of the last rung on all images and attack it on test images."""
    name = f"full{trial.folder.rpartition('/')[2].partition('-')[0]}"
    run, file = given.work / name, given.out / f"{name}.json"
    flags = [*TINY, "--epochs", "3"] if given.tiny else ["--data", given.data]
    if not (run / "done").exists():
        shutil.rmtree(run, ignore_errors=True)
        command("train", "--config", HERE / "full.toml", "--arch", trial.name, *flags, "--out", run)
        (run / "done").touch()
    if not file.exists():
        limit = ["--n", "40", "--attack", "fgsm"] if given.tiny else ["--n", "all", "--suite", "fast"]
        command("attack", "--model", run / "ckpt.pt", *flags[:2], *limit, "--out", file)
    return Evaluation.load(file)


def command(*words: object) -> None:
    try:
        run_command([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise


def table(choice: Choice, found: dict[str, Evaluation]) -> str:
    """Return the last two candidates: validation accuracy after the choice, test accuracy after the full run, the verdict."""
    first, second = choice.rungs[-1].trials
    rows = [
        [trial.name, with_interval(trial.score), *map(with_interval, (found[trial.name].clean, found[trial.name].robust))]
        for trial in (first, second)
    ]  # fmt: skip
    kept = {name: [held(sample) for sample in one.samples] for name, one in found.items()}
    value, (low, high) = paired_difference(kept[second.name], kept[first.name])
    rival = next(one for one in choice.rivals if one.second == second.name)
    said = "it was told apart" if rival.claimable else "the table said that they cannot be told apart"
    said += f", since {rival.unequal}" if rival.unequal else ""
    ended = (
        "won the full run, too" if low > 0 else "lost the full run" if high < 0 else "is level with it in the full run"
    )
    shown = markdown(["Candidate", "Robust, validation", "Clean, test", "Robust, test"], rows)
    return (
        f"{shown}\n\n{choice.winner} against {second.name}: {said} "
        f"({100 * rival.difference:+.1f} points, seeds make {100 * (choice.noise or 0):.1f}); it {ended}: "
        f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    )


if __name__ == "__main__":
    main()
