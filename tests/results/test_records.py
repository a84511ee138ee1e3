import json
import os

import numpy as np
import pytest

from robustcls.core.errors import InputError
from robustcls.evaluation.measures.gallery.record import Example, Gallery, Map
from robustcls.results import records
from robustcls.results.comparison import find_mismatch, held, was_right
from robustcls.results.records import SCHEMA, Accuracy, Array, Evaluation


def evaluation(**changes) -> Evaluation:
    image = Array.encode(np.linspace(0, 1, 16).reshape(1, 4, 4), "uint8", 1 / 255)
    tops = [[0.0, 0.9]], [[1.0, 0.8], [0.0, 0.2]]
    delta = Array.encode(np.linspace(-0.03, 0.03, 16).reshape(1, 4, 4))
    whole = {
        "model": records.Model("m", "abc", "vgg16", 7, [1, 4, 4], ["zéro", "one"]),
        "data": records.Data("digits", "test", 3, "def", 9, "all", "a note"),
        "threat": records.Threat("linf", 8 / 255, "8/255"),
        "clean": Accuracy.of(2, 3),
        "robust": Accuracy.of(1, 3, "upper bound: fast"),
        "attacks": [
            records.Attack("pgd", {"steps": 3, "step_size": None}, 2, 1, 1 / 3, 0.5, 9, 6, Accuracy.of(1, 3), 1, 0.03, "")
        ],
        "checks": [records.Check("zero_gradients", "pass", 0.0, 0.05, "fine"), records.Check("x", "fail", None, None, "")],
        "samples": [
            records.Sample(0, 0, 0, 1, "pgd", 0.03, ["pgd"]),
            records.Sample(1, 1, 1, 1, None, None, []),
            records.Sample(2, 1, 0, 0, None, None),
        ],
        "provenance": records.Provenance("c", {"seed": 0}, 0, {"torch": "2"}, "cpu", "", "2026-01-01", 1.5, "fp32"),
        "gallery": Gallery(
            "a rule",
            [
                Example(
                    0, "broken", image, image, delta, *tops, [Map("s", "clean", 0, delta)]
                )
            ],
        ),
        "training": records.Training(
            {"lr": 0.1}, [records.Epoch(1, 0.1, 2.0, None, 0.3, 0.4, 0.2, None, 1.0, 10.0)], 1, "val", "pgd"
        ),
    }  # fmt: skip
    return Evaluation(**(whole | changes))


def altered(change) -> str:
    whole = json.loads(evaluation().to_json())
    change(whole)
    return json.dumps(whole)


def test_json_both_ways(tmp_path):
    one = evaluation()
    text = one.to_json()
    assert Evaluation.from_json(text) == one
    assert Evaluation.from_json(text).to_json() == text
    assert text.endswith("\n")
    whole = json.loads(text)
    assert next(iter(whole)) == "schema"
    assert whole["schema"] == SCHEMA == "robustcls/evaluation/1"
    one.save(tmp_path / "made" / "here" / "e.json")
    assert Evaluation.load(str(tmp_path / "made" / "here" / "e.json")) == one


def test_the_keys_of_the_contract():
    whole = json.loads(evaluation().to_json())
    wanted = {
        "model": {"name", "sha256"},
        "data": {"name", "split", "n", "sha256"},
        "threat": {"norm", "eps", "eps_text"},
        "clean": {"correct", "total", "accuracy", "ci95"},
        "robust": {"correct", "total", "accuracy", "ci95", "kind"},
        "provenance": {"command", "config", "seed", "versions", "device", "commit", "started", "seconds"},
    }
    for part, keys in wanted.items():
        assert keys <= whole[part].keys()
    attack = {"name", "options", "attacked", "broken", "robust_accuracy", "seconds", "forwards", "backwards"}
    assert attack <= whole["attacks"][0].keys()
    assert {"id", "status", "measured", "threshold", "message"} <= whole["checks"][0].keys()
    sample = {"index", "label", "clean", "adversarial", "broken_by", "distance"}
    assert sample <= whole["samples"][0].keys()


def test_newer_files_may_say_more_and_older_ones_less():
    def newer(whole):
        whole["colour"] = "red"
        whole["model"]["colour"] = "red"

    def older(whole):
        for key in ("gallery", "training"):
            del whole[key]
        del whole["attacks"][0]["alone"]

    assert Evaluation.from_json(altered(newer)) == evaluation()
    assert Evaluation.from_json(altered(older)).attacks[0].alone is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_not_written(value, tmp_path):
    one = evaluation()
    one.checks[0].measured = value
    with pytest.raises(ValueError, match="JSON"):
        one.save(tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


def set_in(*keys, value):
    def change(whole):
        for key in keys[:-1]:
            whole = whole[key]
        whole[keys[-1]] = value

    return change


def drop(*keys):
    def change(whole):
        for key in keys[:-1]:
            whole = whole[key]
        del whole[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "is not JSON"),
        (evaluation().to_json()[:-200], "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (altered(set_in("attacks", 0, "options", value={"a": float("nan")})), "NaN"),
        (altered(set_in("clean", "accuracy", value=float("inf"))), "Infinity"),
        ("[]", "schema None"),
        ("3", "schema None"),
        (altered(set_in("schema", value="robustcls/evaluation/2")), "schema 'robustcls/evaluation/2'"),
        (altered(drop("schema")), "schema None"),
        (altered(drop("model")), "f.json: model is missing"),
        (altered(drop("samples", 1, "label")), "samples.1.label is missing"),
        (altered(set_in("samples", 2, "label", value="1")), "samples.2.label: '1' is not a valid integer"),
        (altered(set_in("samples", 2, "label", value=True)), "samples.2.label: True is not a valid integer"),
        (altered(set_in("samples", 2, "label", value=1.5)), "samples.2.label: 1.5 is not a valid integer"),
        (altered(set_in("samples", value={})), "samples: {} is not"),
        (altered(set_in("threat", "eps", value="8/255")), "threat.eps: '8/255' is not a valid number"),
        (altered(set_in("threat", "eps", value=10**400)), "threat.eps: 1000"),
        (altered(set_in("threat", value=None)), "threat: None is not a dictionary or an instance of Threat"),
        (
            altered(set_in("provenance", "versions", "torch", value=2)),
            "provenance.versions.torch: 2 is not a valid string",
        ),
        (
            altered(set_in("gallery", "examples", 0, "clean", "shape", 0, value="x")),
            "examples.0.clean.shape.0: 'x' is not",
        ),
        (altered(set_in("clean", "correct", value=4)), "clean.correct: 4 is not a count of 3"),
        (altered(set_in("robust", "correct", value=-1)), "robust.correct: -1 is not greater than or equal to 0"),
        (altered(set_in("robust", "ci95", value=[0.1])), "robust"),
    ],
)
def test_damage_is_named_in_one_line(text, place):
    with pytest.raises(InputError) as caught:
        Evaluation.from_json(text, "f.json")
    assert place in str(caught.value)
    assert str(caught.value).startswith("f.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_are_none(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\x80\x81\xff")
    for name, message in (("none.json", "No such file"), ("binary.json", "not a text file"), (".", "directory")):
        with pytest.raises(InputError, match=message) as caught:
            Evaluation.load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_save_that_fails_leaves_no_partial_file_and_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "e.json"
    evaluation().save(path)
    old = path.read_text()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left on device"):
        evaluation(data=records.Data("other", "test", 3, "d")).save(path)
    assert path.read_text() == old
    assert [file.name for file in tmp_path.iterdir()] == ["e.json"]


def test_a_command_that_is_not_utf8_is_kept(tmp_path):
    one = evaluation()
    one.provenance.command = "robustcls attack --model caf\udce9.pt"
    one.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == one


def test_comparable():
    one = evaluation()
    assert find_mismatch([one, evaluation()]) == ""
    assert "the sample indices" in find_mismatch([one, evaluation(samples=one.samples[:2])])
    assert "the data differ" in find_mismatch([one, evaluation(data=records.Data("digits", "test", 3, "other"))])
    assert "l2 0.5" in find_mismatch([one, evaluation(threat=records.Threat("l2", 0.5, "0.5"))])
    assert "the attacks" in find_mismatch([one, evaluation(attacks=[])])
    assert [was_right(sample) for sample in one.samples] == [True, True, False]
    assert [held(sample) for sample in one.samples] == [False, True, False]
