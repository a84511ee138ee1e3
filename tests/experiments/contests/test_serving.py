"""The suite `serve` of the contests: contestants, ratios within a round, and the same images for all."""

import importlib.util
import json

import pytest

from experiments.contests import serving
from experiments.contests.__main__ import command
from experiments.contests.serving import EAGER, ONNX, add_ratios, contestants_of
from robustcls.bench.serving import Subject
from robustcls.cli.main import main
from tests.helpers.serving import small_artefact

pytest.importorskip("onnxscript")
OURS = ["robustcls, JSON", "robustcls, raw UINT8", "robustcls, PNG"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return Subject.of(small_artefact(tmp_path_factory.mktemp("contest") / "small"))


def installed(*names):
    """Return a stand-in for find_spec that finds only these packages."""
    return lambda name: object() if name in names else None


def test_who_is_not_installed_is_told(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", installed())
    present, missing = contestants_of(subject, 1.0, tmp_path / "model.pt")
    assert [one.name for one in present] == OURS
    assert any("robustcls[ray]" in line for line in missing)
    assert any("fastapi, uvicorn" in line and "requirements.txt" in line for line in missing)


def test_an_artefact_has_no_eager_model(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", installed("fastapi", "uvicorn", *serving.RAY))
    present, missing = contestants_of(subject, 1.0, None)
    assert [one.name for one in present] == [*OURS, "robustcls on Ray, JSON", ONNX]
    assert len(missing) == 1
    assert "checkpoint" in missing[0]
    present, missing = contestants_of(subject, 1.0, tmp_path / "model.pt")
    assert [one.name for one in present][-2:] == [ONNX, EAGER]
    assert missing == []


def test_everyone_is_sent_the_same_numbers(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", installed("fastapi", "uvicorn"))
    found = {one.name: one.payloads for one in contestants_of(subject, 1.0, tmp_path / "model.pt")[0]}
    for number in range(len(subject.pixels)):
        ours = json.loads(found["robustcls, JSON"][number].body)["inputs"][0]["data"]
        for name in (ONNX, EAGER):
            assert json.loads(found[name][number].body)["pixels"] == ours[0]


def test_ratios_are_taken_within_a_round():
    rates = {"ours": [30.0, 80.0, 90.0], EAGER: [10.0, 40.0, 45.0], ONNX: [20.0, 20.0, None]}
    rounds = {
        name: [{"error": "ended"} if rate is None else {"requests_per_second": rate} for rate in found]
        for name, found in rates.items()
    }
    suite = {"rounds": rounds, "rows": {name: {} for name in rounds}}
    add_ratios(suite)
    assert suite["rows"]["ours"] == {"ratio": 2.0, "ratio_to_onnxruntime": 2.75}
    assert suite["rows"][EAGER]["ratio"] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("fastapi"), reason="not installed: fastapi")
def test_the_contest_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as end:
        main(["--suite", "serve", "-n", "20", "--seconds", "0.2", "--rounds", "1", "--arch", "vgg11(width=0.1)", "--out",
              str(out)], command=command)  # fmt: skip
    assert end.value.code in (0, None), capsys.readouterr().err
    suite = json.loads(out.read_text())["suites"]["serve"]
    present = [*OURS, ONNX, EAGER]
    assert [name for name in suite["rows"] if "Ray" not in name] == present
    for name in present:
        row = suite["rows"][name]
        assert row["ratio"] > 0
        assert row["ratio_to_onnxruntime"] > 0
        assert suite["rounds"][name][0]["half"]["errors"] == 0
    assert suite["versions"]["fastapi"]
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if line != str(out)) <= 80
    assert "left out" in shown or "Ray" in shown
