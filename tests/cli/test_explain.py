"""`robustcls explain`: the files that it writes."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from robustcls.results.records import Measures


def test_explain_writes_maps_and_pictures(cli, home, tmp_path):
    options = ("--n", 2, "--attack", "fgsm", "--method", "saliency", "--method", "gradcam", "--out", "new/maps")
    result = cli("explain", "--model", home / "standard" / "ckpt.pt", *options)
    assert result.status == 0, result.err
    assert re.search(r"^gradcam: grid \d+x\d+ of layer net\.", result.err, re.MULTILINE)
    folder = tmp_path / "here" / "new" / "maps"
    pictures = sorted(folder.glob("*.png"))
    written = ["maps.npz", "measures.json", *(path.name for path in pictures)]
    assert result.out.split() == [f"new/maps/{name}" for name in written]
    assert sorted(path.name for path in folder.iterdir()) == sorted(written)
    assert max(map(len, result.err.splitlines())) <= 80
    arrays = np.load(folder / "maps.npz")
    assert set(arrays.files) == {
        "x", "x_adv", "y", "adversarial", "index", "drawn",
        *(f"{method}/{role}" for method in ("saliency", "gradcam") for role in ("clean", "adversarial", "adversarial_class")),
    }  # fmt: skip
    assert [path.name for path in pictures] == [f"sample-{index:05d}.png" for index in arrays["index"]]
    assert len(pictures) == 2
    assert arrays["gradcam/clean"].shape[0] == arrays["x"].shape[0] == 2
    assert np.abs(arrays["x_adv"] - arrays["x"]).max() <= 0.06 + 1e-6
    for path in pictures:
        with Image.open(path) as image:
            image.verify()
    with Image.open(pictures[0]) as image:
        assert min(image.size) > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_explain_measures_what_it_draws(cli, home, tmp_path):
    options = ("--n", 40, "--pictures", 1, "--quality-n", 6, "--attack", "pgd(steps=5)", "--device", "cpu")
    methods = ("--method", "integrated_gradients(steps=2)", "--method", "gradcam")
    result = cli("explain", "--model", home / "pgd" / "ckpt.pt", *options, *methods, "--out", "maps")
    assert result.status == 0, result.err
    folder = tmp_path / "here" / "maps"
    assert len(list(folder.glob("*.png"))) == 1
    found, arrays = Measures.load(folder / "measures.json"), np.load(folder / "maps.npz")
    moved = (arrays["x_adv"] != arrays["x"]).reshape(40, -1).any(1)
    assert 0 < found.explanations.n <= moved.sum()
    assert found.explanations.attack == "pgd(steps=5)"
    assert found.data.n == 40
    assert found.provenance.config["pictures"] == 1
    first, second = found.explanations.methods
    assert (first.method, second.method) == ("integrated_gradients(steps=2)", "gradcam")
    assert first.quality["gini"].n == 6
    gaps = arrays["integrated_gradients(steps=2)/completeness_gap"]
    assert gaps.shape == (40,)
    assert arrays["gradcam/clean"].shape[0] == 40
    assert arrays["gradcam/adversarial_class"].shape[0] == 1
    assert arrays["drawn"].tolist() == [0]
    for name in ("Median rank correlation", "integrated_gradients", "random"):
        assert name in result.err
    assert {check.id for check in first.checks} == {
        "finite_maps", "completeness", "repeatability", "parameter_randomisation", "random_logit", "insertion",
        "deletion",
    }  # fmt: skip


def test_explain_says_where_maps_are_not_finite(cli, tmp_path):
    options = (
        "--data",
        "my_plugins:digits",
        "--n",
        6,
        "--pictures",
        0,
        "--quality-n",
        0,
        "--attack",
        "fgsm",
        "--method",
        "saliency",
    )
    result = cli("explain", "--model", "my_plugins:rooted", *options, "--out", "maps")
    assert result.status == 0, result.err
    assert "saliency: 6 of 6 maps had values that are not finite, taken as 0" in result.err
    assert np.isfinite(np.load(tmp_path / "here" / "maps" / "maps.npz")["saliency/clean"]).all()


def test_explain_without_measures_or_pictures(cli, home, tmp_path):
    options = ("--n", 3, "--pictures", 0, "--quality-n", 0, "--attack", "fgsm", "--method", "saliency", "--quiet")
    result = cli("explain", "--model", home / "pgd" / "ckpt.pt", *options, "--out", "maps")
    assert (result.status, result.out, result.err) == (0, "maps/maps.npz\n", "")


def test_an_attack_on_the_explanation_keeps_the_labels(cli, home, tmp_path):
    options = ("--n", 12, "--pictures", 0, "--attack", "interpretation(steps=5)", "--method", "saliency", "--quiet")
    result = cli("explain", "--model", home / "pgd" / "ckpt.pt", *options, "--out", "maps")
    assert result.status == 0, result.err
    found = Measures.load(tmp_path / "here" / "maps" / "measures.json").explanations
    assert (found.flipped, found.attack) == (0, "interpretation(steps=5)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pictures", -1), "--pictures -1 is negative"),
        (("--quality-n", -2), "--quality-n -2 is negative"),
        (("--method", "gradcam(layer='net.0.99')"), "no layer 'net.0.99': the nearest are"),
        (("--method", "deeplift(baseline='white')"), "'black' or 'mean' or 'blur'"),
        (("--method", "smoothgrads"), "did you mean 'smoothgrad'"),
        (("--method", "kernel_shap(samples=9)"), "give at least as many samples"),
    ],
)
def test_explain_refuses_in_one_line(options, message, cli, home, tmp_path):
    result = cli("explain", "--model", home / "pgd" / "ckpt.pt", "--n", 2, "--attack", "fgsm", "--quiet", *options)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (home / "pgd" / "explain").exists()


def test_a_map_is_marked_where_it_misses_the_change_of_the_logit():
    from robustcls.evaluation.explain import mark_of

    assert mark_of(None, 0) == ""
    gaps = torch.tensor([0.01, 0.013, float("nan"), float("inf")])
    assert [bool(mark_of(gaps, i)) for i in range(4)] == [False, True, True, True]
    assert "1.3%" in mark_of(gaps, 1)
