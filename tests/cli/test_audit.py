"""`robustcls audit`: its files and messages, and what it refuses."""

import csv
import sys

import pytest

import robustcls
from robustcls.results.audit import Audit

FLAGS = (
    "--data", "digits(size=8)", "--arch", "tests.helpers.tiny_run:small_cnn", "--limit-train", "300", "--folds", "2",
    "--epochs", "3", "--attack", "fgsm", "--attack-n", "30", "--minimum", "fmn(steps=5)", "--minimum-n", "20",
    "--suggest", "40", "--device", "cpu", "--precision", "fp32",
)  # fmt: skip


def test_writes_tables_and_a_record_and_applies_decisions(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["robustcls", "audit", "--typed"])
    out = tmp_path / "audit"
    done = cli("audit", *FLAGS, "--out", str(out))
    assert done.status == 0, done.err
    assert done.out.split() == [str(out / "audit.html"), str(out / "audit.json")]
    assert "300 training images, 2 folds, 3/3 epochs" in done.err
    assert max(map(len, done.err.splitlines())) <= 80
    found = Audit.load(out / "audit.json")
    assert found.data.n == 300
    assert found.provenance.command == "robustcls audit --typed"
    assert found.searched == ["train", "test"]
    with open(out / "suggest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 == len(found.suggestions)
    assert {row["decision"] for row in rows} == {""}

    again = cli("audit", *FLAGS, "--out", str(out))
    assert again.status == 2
    assert "already has an audit" in again.err

    rows[0]["decision"] = "remove"
    with open(out / "suggest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    new = tmp_path / "new"
    done = cli("audit", "--data", "digits(size=8)", "--apply", str(out / "suggest.csv"), "--out", str(new))
    assert done.status == 0, done.err
    assert "0 relabelled, 1 removed" in done.err
    whole = robustcls.load_data("digits(size=8)", "train", None)[0]
    copied = robustcls.load_data(f"folder:{new}", "train", None)[0]
    assert abs(len(copied) - len(whole)) <= 2


def test_from_python_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = robustcls.load_data("digits(size=8)", "train", 300)
    options = {"arch": "tests.helpers.tiny_run:small_cnn", "epochs": 2, "attack": "none", "minimum": "none"}
    found = robustcls.audit((x, y), device="cpu", precision="fp32", **options)
    assert found.data.n == 300
    assert list(tmp_path.iterdir()) == []
    assert robustcls.audit.__name__ == "audit"  # still the function, whatever was imported


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--folds", "7"), "`--folds 7` is out of range"),
        (("--minimum", "pgd"), "--minimum pgd does not search for the nearest example"),
        (("--attack", "pgdd"), "did you mean 'pgd'"),
        (("--recipe", "missing.toml"), "cannot read missing.toml"),
        (("--apply", "some.csv"), "--arch is for an audit, and --apply only corrects the data: leave it out"),
        (("--limit-train", "12"), "too few different ones for 2 folds"),
    ],
)
def test_refuses_in_one_line(cli, tmp_path, flags, said):
    done = cli("audit", *FLAGS, *flags, "--out", str(tmp_path / "audit"))
    assert done.status == 2
    assert len(done.err.strip().splitlines()) == 1
    assert said.replace("`", "") in done.err
    assert not (tmp_path / "audit").exists()


def test_decisions_that_are_missing(cli, tmp_path):
    done = cli("audit", "--apply", "missing.csv", "--data", "digits(size=8)", "--out", str(tmp_path / "corrected"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "cannot read missing.csv" in done.err
    assert not (tmp_path / "corrected").exists()
