"""The published schema matches the records, and every committed evaluation conforms to it."""

import json
import re

import pytest

from robustcls.results.schema import evaluation_schema
from tests.helpers import ROOT

SCHEMA = json.loads((ROOT / "docs" / "evaluation.schema.json").read_text(encoding="utf-8"))
EVALUATIONS = [
    file
    for file in sorted((ROOT / "reports").rglob("*.json"))
    if '"schema": "robustcls/evaluation/' in file.read_text(encoding="utf-8")[:200]
]
KINDS = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool, "null": type(None),
}  # fmt: skip
HOLDS = {
    "const": lambda value, wanted: value == wanted,
    "enum": lambda value, wanted: value in wanted,
    "type": lambda value, wanted: isinstance(value, KINDS[wanted]) and isinstance(value, bool) == (wanted == "boolean"),
    "pattern": lambda value, wanted: re.search(wanted, value) is not None,
    "minimum": lambda value, wanted: value >= wanted,
    "maximum": lambda value, wanted: value <= wanted,
    "exclusiveMinimum": lambda value, wanted: value > wanted,
    "exclusiveMaximum": lambda value, wanted: value < wanted,
    "minItems": lambda value, wanted: len(value) >= wanted,
    "maxItems": lambda value, wanted: len(value) <= wanted,
}
INSIDE = {"properties", "required", "additionalProperties", "items"}
SILENT = {"$schema", "$defs", "description", "default"}


def test_the_published_schema_is_that_of_the_records():
    anew = "python -m robustcls.results.schema > docs/evaluation.schema.json"
    assert json.loads(evaluation_schema()) == SCHEMA, f"the records have changed; write the schema anew: {anew}"


def faults(value, schema, place=""):
    """Return where a value violates a schema, by the keywords that our schema uses; a key that the schema lacks is a violation,
    too."""
    assert not schema.keys() - HOLDS.keys() - INSIDE - SILENT - {"$ref", "anyOf"}
    if "$ref" in schema:
        return faults(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], place)
    if "anyOf" in schema:
        return min((faults(value, one, place) for one in schema["anyOf"]), key=len)
    if "type" in schema and not HOLDS["type"](value, schema["type"]):
        return [f"{place}: {value!r:.40} is no {schema['type']}"]
    broken = [key for key in schema.keys() & HOLDS.keys() if not HOLDS[key](value, schema[key])]
    found = [f"{place}: {value!r:.40} breaks {key} {schema[key]}" for key in broken]
    found += [f"{place}.{key} is missing" for key in schema.get("required", ()) if key not in value]
    if isinstance(value, list):
        return found + [fault for i, one in enumerate(value) for fault in faults(one, schema["items"], f"{place}.{i}")]
    known, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key not in known and others is False:
            found.append(f"{place}.{key} is unknown")
        inside = known.get(key, others)
        found += faults(inner, inside, f"{place}.{key}") if isinstance(inside, dict) else []
    return found


@pytest.mark.parametrize("file", EVALUATIONS, ids=lambda file: str(file.relative_to(ROOT / "reports")))
def test_a_committed_evaluation_keeps_it(file):
    assert faults(json.loads(file.read_text(encoding="utf-8")), SCHEMA) == []


def test_there_are_evaluations():
    assert len(EVALUATIONS) > 50


@pytest.mark.parametrize(
    ("path", "value"),
    [("schema", "x"), ("clean.accuracy", 2), ("clean.ci95", [0.1]), ("checks.0.status", "ok"), ("samples.0.label", "3"),
     ("attacks.0.colour", "red"), ("threat", {})],
)  # fmt: skip
def test_what_does_not_keep_it_is_found(path, value):
    whole = json.loads(EVALUATIONS[0].read_text(encoding="utf-8"))
    *home, last = path.split(".")
    inside = whole
    for key in home:
        inside = inside[int(key) if isinstance(inside, list) else key]
    inside[last] = value
    assert faults(whole, SCHEMA)


def test_fields_are_described_where_the_records_say_more():
    assert SCHEMA["$defs"]["Sample"]["properties"]["broken_by"]["description"].startswith("the first attack")
