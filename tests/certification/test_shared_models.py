"""Certificates on models trained by others: those in reports/certified/bounds.json, and a few computed anew."""

import importlib.util
import json

import pytest
import torch

from robustcls.certification.bounds import certify_bounds
from robustcls.data.sets.fashion_mnist import DEBIAN, fashion_mnist
from tests.helpers import ROOT

FOLDER = ROOT.parent / "shared" / "models"
FOUND = {row["model"]: row for row in json.loads((ROOT / "reports/certified/bounds.json").read_text("utf-8"))["rows"]}


def test_fashions_certificates_are_those_of_the_reference_to_a_point():
    """The reference certifies 66.33% of the first 300 test images at 0.1; the clean accuracy is 81.67%."""
    row = FOUND["fashion"]
    assert row["n"] == 300
    assert row["crown"]["correct"] / 300 == pytest.approx(0.6633, abs=0.01)
    assert row["clean"]["correct"] / 300 == pytest.approx(0.8167, abs=0.001)


def test_cnn_a_mix_stands_below_what_the_reference_attack_leaves():
    """Of these 300 images, 50.67% stay robust under AutoAttack's own code; the clean accuracy is 73.0%."""
    row = FOUND["cnn_a_mix"]
    assert row["clean"]["correct"] / 300 == pytest.approx(0.73, abs=0.001)
    assert 0 < row["crown"]["correct"] < 0.5067 * 300


@pytest.mark.parametrize("model", FOUND)
def test_no_certified_sample_was_broken_and_tighter_methods_certify_no_fewer(model):
    robust, ibp, crown_ibp, crown = (FOUND[model]["samples"][name] for name in ("robust", "ibp", "crown_ibp", "crown"))
    for less, more in ((ibp, crown_ibp), (crown_ibp, crown), (crown, robust)):
        assert all(one <= other for one, other in zip(less, more, strict=True))
    for name in ("crown", "ibp", "crown_ibp"):
        assert FOUND[model]["samples"][name].count("1") == FOUND[model][name]["correct"]


@pytest.mark.shared
def test_the_first_certificates_of_fashion_are_the_recorded_ones():
    file = FOLDER / "third_party.py"
    if not file.exists():
        pytest.skip("needs ../shared/models, which the project does not ship")
    if not DEBIAN.exists():
        pytest.skip("needs Fashion-MNIST, such as of the Debian package dataset-fashion-mnist")
    spec = importlib.util.spec_from_file_location("third_party", file)
    third_party = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(third_party)
    images = fashion_mnist("test")
    x, y = images.pixels[:12].float() / 255, images.labels[:12]
    model = third_party.fashion()
    found = certify_bounds(model, x, y, "linf:0.1").certified
    assert "".join(str(int(one)) for one in found) == FOUND["fashion"]["samples"]["crown"][:12]
    assert torch.equal(found & (model(x).argmax(1) == y), found)
