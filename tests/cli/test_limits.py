"""--mask, --eight-bit and l0 on the command line are recorded, shown, compared and judged."""

import json

import numpy as np
import pytest
from PIL import Image

from robustcls.results.records import Evaluation

LIMITS = {"plain": (), "corner": ("--mask", "corner.png"), "rest": ("--mask", "rest.png"), "bits": ("--eight-bit",)}


@pytest.fixture
def evaluate(cli, home, tmp_path):
    def run(name, *more):
        flags = [home / flag if str(flag).endswith(".png") else flag for flag in LIMITS[name]]
        out = f"{name}.json"
        attack = ("--n", 40, "--attack", "pgd(steps=5)", "--eps", "0.1", "--out", out)
        result = cli("attack", "--model", home / "standard" / "ckpt.pt", *attack, *flags, *more)
        assert result.status == 0, result.err
        return result, tmp_path / "here" / out

    return run


def test_a_mask_is_recorded_said_and_kept_to(evaluate, tmp_path):
    result, file = evaluate("corner", "--save-examples", "e.npz")
    assert "linf 0.1 in 25 of 64 pixels" in result.out
    mask = Evaluation.load(file).threat.mask
    assert (mask.name, mask.pixels, mask.total, len(mask.sha256)) == ("corner.png", 25, 64, 64)
    examples = np.load(tmp_path / "here" / "e.npz")
    changed = (examples["x_adv"] != examples["x"]).any((0, 1))
    assert len(examples["y"]) > 0
    assert changed[:5, :5].any()
    assert not changed[5:].any()
    assert not changed[:, 5:].any()


def test_a_mask_of_colour_images_holds_in_every_channel(cli, home, tmp_path):
    mask = np.full((8, 8, 4), 255, dtype=np.uint8)
    mask[:, 5:, 3] = 0  # white and transparent
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = ("--data", f"folder:{home / 'images'}", "--norm", "linf", "--eps", 1, "--mask", tmp_path / "mask.png")
    attack = ("--attack", "pgd(steps=20)", "--save-examples", "e.npz", "--out", "e.json")
    result = cli("attack", "--model", "my_plugins:colours", *flags, *attack)
    assert result.status == 0, result.err
    assert "linf 1 in 40 of 64 pixels" in result.out
    examples = np.load("e.npz")
    changed = (examples["x_adv"] != examples["x"]).any(0)
    assert changed.shape == (3, 8, 8)
    assert changed[:, :, :5].all(), "allowed pixels change in every channel"
    assert not changed[:, :, 5:].any()


def test_examples_in_8_bits_are_recorded_and_whole_levels(evaluate, tmp_path):
    result, file = evaluate("bits", "--save-examples", "e.npz")
    assert "linf 0.1, examples in 8 bits" in result.out
    assert "linf:25/255, the whole grey levels within linf:0.1: examples count in 8 bits" in " ".join(
        result.err.split()
    )
    assert Evaluation.load(file).threat.eight_bit
    levels = np.load(tmp_path / "here" / "e.npz")["x_adv"] * np.float32(255)
    assert len(levels) > 0
    assert np.abs(levels - levels.round()).max() < 1e-4


def test_compare_and_gate_know_the_difference(evaluate, cli):
    for name in LIMITS:
        evaluate(name)
    assert cli("compare", "plain.json", "plain.json").status == 0
    assert cli("compare", "corner.json", "corner.json").status == 0
    for name in ("corner", "bits"):
        result = cli("compare", "plain.json", f"{name}.json")
        assert result.status == 2
        assert "the threat models differ (linf 0.1 and linf 0.1" in result.err
    assert "the threat models differ" in cli("compare", "corner.json", "rest.json").err
    with open("policy.toml", "w", encoding="utf-8") as policy:
        policy.write('norm = "linf"\neps = "0.1"\nmin_robust = 0.01\n')
    assert "was not measured" not in cli("gate", "plain.json", "--policy", "policy.toml").out
    for name in ("corner", "bits"):
        result = cli("gate", f"{name}.json", "--policy", "policy.toml")
        assert "while the policy is about linf 0.1" in " ".join(result.out.split())
        assert result.status != 0


def test_an_evaluation_without_limits_records_none(evaluate):
    _, file = evaluate("plain")
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored["threat"]["mask"] is None
    assert stored["threat"]["eight_bit"] is False
    del stored["threat"]["mask"], stored["threat"]["eight_bit"]  # as in files from before these fields existed
    file.write_text(json.dumps(stored), encoding="utf-8")
    assert Evaluation.load(file).threat.plain


def test_l0_is_a_norm_of_the_command(cli, home):
    flags = ("--n", 20, "--norm", "l0", "--eps", 5, "--attack", "sigma_zero(steps=60)", "--out", "e.json")
    result = cli("attack", "--model", home / "standard" / "ckpt.pt", *flags)
    assert result.status == 0, result.err
    found = Evaluation.load("e.json")
    assert found.attacks[0].broken > 0
    distances = [sample.distance for sample in found.samples if sample.broken_by]
    assert all(distance == int(distance) <= 5 for distance in distances)


def test_an_attack_that_met_no_sample_has_no_median_distance(cli, home):
    flags = ("--n", 10, "--norm", "l0", "--eps", 64, "--out", "e.json")
    attacks = ("--attack", "my_plugins:blank", "--attack", "sigma_zero(steps=2)")
    result = cli("attack", "--model", home / "standard" / "ckpt.pt", *flags, *attacks)
    assert result.status == 0, result.err
    assert Evaluation.load("e.json").attacks[1].attacked == 0
    assert "sigma_zero: no sample attacked" in result.out
    assert "median distance" not in result.out
