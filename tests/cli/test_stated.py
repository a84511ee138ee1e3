"""What is stated of a model where its evaluation is rendered, and what doctor and gate say."""

import io
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import robustcls
from robustcls.cli import console, doctor
from robustcls.results.records import Evaluation
from tests.helpers.report_text import shown

ROOT = Path(robustcls.__file__).parent.parent


def test_intended_use_and_licence_are_stated_where_a_file_is_rendered(cli, home):
    Evaluation.load(home / "a.json").save("e.json")
    before = Path("e.json").read_bytes()
    assert cli("report", "e.json", "--model-card").status == 0
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## Intended use\n\nNot stated.\n" in card
    assert '\nlicense: "unknown"\n' in card
    assert "Research" not in card
    stated = ("--intended-use", "sorting *post*", "--license", "Apache-2.0")
    assert cli("report", "e.json", "--model-card", *stated, "--min-robust", 0.9, "--out", "r.html").status == 0
    card, page = Path("MODEL_CARD.md").read_text(encoding="utf-8"), shown("r.html")
    assert "## Intended use\n\nsorting \\*post\\*\n" in card
    assert '\nlicense: "Apache-2.0"\n' in card
    assert "- Licence: Apache-2.0\n" in card
    assert "sorting *post*" in page
    assert "Apache-2.0" in page
    assert "**FAIL**" in card
    assert Path("e.json").read_bytes() == before


def test_they_are_kept_where_the_model_is_measured(cli, home):
    model = ("--model", home / "pgd" / "ckpt.pt", "--n", 10, "--attack", "fgsm", "--out", "e.json")
    assert cli("attack", *model, "--intended-use", "post", "--license", "MIT").status == 0
    one = Evaluation.load("e.json")
    assert (one.intended_use, one.license) == ("post", "MIT")


def test_a_card_without_thresholds_says_that_nothing_was_judged(cli, home):
    Evaluation.load(home / "a.json").save("e.json")
    assert cli("report", "e.json", "--model-card").status == 0
    assert "## Verdict\n\nNot judged: no thresholds were given.\n" in Path("MODEL_CARD.md").read_text(encoding="utf-8")
    Path("p.toml").write_text('name = "release"\nmin_robust = 0.4\nmin_clean = 0.97\nmax_ece = 0.1\n')
    assert cli("report", "e.json", "--model-card", "--policy", "p.toml").status == 0
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    assert "**FAIL** by the policy release." in card
    for status, asked in (
        ("PASS", "robust accuracy at least 40.0%"), ("FAIL", "clean accuracy at least 97.0%"),
        ("INCONCLUSIVE", "clean calibration error (ECE) at most 10.0%"),
    ):  # fmt: skip
        assert f"| {status} | {asked} |" in card


def test_gate_marks_each_threshold(cli, home):
    Path("p.toml").write_text("min_robust = 0.4\nmin_clean = 0.97\nmax_drop = 0.4\nmin_corruption = 0.5\n")
    result = cli("gate", home / "a.json", "--policy", "p.toml")
    assert result.status == 1
    assert result.out.splitlines() == [
        "FAIL",
        "  ✕ failed  clean accuracy at least 97.0%: 90.0% [82.6%, 94.5%]",
        "  ✓ met     robust accuracy at least 40.0%: 50.0% [40.4%, 59.6%]",
        "  ? open    drop from clean to robust accuracy at most 40.0%: 40.0% [30.9%,",
        "            49.8%]",
        "  ? open    mean accuracy under common corruptions was not measured",
    ]


@pytest.mark.parametrize(("encoding", "start"), [("utf-8", "✓ met"), ("ascii", "+ met"), ("cp1252", "+ met")])
def test_the_marks_are_what_the_terminal_can_write(encoding, start, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert console.mark("PASS").startswith(start)
    print(console.mark("FAIL"))
    assert len({len(console.mark(status)) for status in ("PASS", "WARN", "FAIL", "INCONCLUSIVE")}) == 1


def test_doctor_lists_every_extra_with_what_it_is_for(cli, monkeypatch):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(wanted) <= set(doctor.EXTRAS)
    needs = [f'{need} ; extra == "{extra}"' for extra, some in wanted.items() for need in some]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: FakeMetadata(wanted))
    versions = {"timm": "0.9", "safetensors": "0.5", "wandb": "0.31.1"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    lines = doctor.extras()
    text = " ".join(" ".join(lines).split())
    assert "safetensors installed weights as .safetensors: safetensors 0.5" in text
    assert "timm missing: pip install 'robustcls[timm]' models by --model timm/NAME: timm 0.9, needs >=1.0" in text
    assert "onnx missing: pip install 'robustcls[onnx]' models as .onnx: onnx missing, onnxruntime missing" in text
    assert [extra for extra in wanted if not any(line.startswith(f"  {extra} ") for line in lines)] == []


class FakeMetadata:
    def __init__(self, extras):
        self.extras = list(extras)

    def get_all(self, key):
        assert key == "Provides-Extra"
        return self.extras


def test_doctor_says_where_the_package_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", missing)
    assert "not installed" in doctor.extras()[0]
