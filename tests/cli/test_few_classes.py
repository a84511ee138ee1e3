"""The whole standard suite on two and three classes in a folder, which AutoAttack's own code does not support."""

import numpy as np
import pytest
from PIL import Image

from robustcls.results.records import Evaluation


def draw(folder, classes: int) -> None:
    """Write grey images whose brightness indicates the class, with strong noise."""
    random = np.random.default_rng(classes)
    for split, count in (("train", 60), ("test", 12)):
        for label in range(classes):
            home = folder / split / f"class{label}"
            home.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(60 + 130 * label / (classes - 1), 40, (12, 12)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(home / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_standard_runs_to_the_end(cli, tmp_path, classes):
    draw(tmp_path / "images", classes)
    subject = ("--data", f"folder:{tmp_path / 'images'}", "--arch", "tests.helpers.tiny_run:flat_net")
    trained = cli(
        "train", *subject, "--eps", "0.1", "--device", "cpu", "--adv", "none", "--epochs", 6, "--batch-size", 16,
        "--augment", "none", "--val-n", 8, "--lr", 0.05, "--out", "run",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    for norm, eps in (("linf", 0.1), ("l2", 0.5)):
        result = cli(
            "attack", "--model", "run/ckpt.pt", *subject, "--norm", norm, "--eps", eps, "--suite", "standard",
            "--n", "all", "--out", "e.json",
        )  # fmt: skip
        assert result.status == 0, result.err
        found = Evaluation.load(tmp_path / "here" / "e.json")
        assert [attack.name for attack in found.attacks] == ["apgd_ce", "apgd_t", "fab_t", "square"]
        assert not any(attack.error for attack in found.attacks)
        assert found.robust.kind == "upper bound: standard"
        assert 0 <= found.robust.accuracy <= found.clean.accuracy
        assert found.clean.accuracy > 0.6
