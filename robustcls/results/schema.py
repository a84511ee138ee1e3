"""Print the JSON schema of an evaluation: `python -m robustcls.results.schema > docs/evaluation.schema.json`."""

import inspect
import json
import re
from typing import Any

from robustcls.core.measures import measures
from robustcls.results import records
from robustcls.results.json_files import adapter_of

_COMMENTED = re.compile(r"^    (\w+): .+?  # (.+)$", re.MULTILINE)


def evaluation_schema() -> str:
    """Return the schema as text. Descriptions of fields are the comments behind them in the source of the records."""
    kinds = dict(vars(records))
    for measure in measures():
        kinds |= vars(measure.load("record"))
    schema = adapter_of(records.Evaluation).json_schema()
    for name, part in [("Evaluation", schema), *schema["$defs"].items()]:
        for field, comment in _COMMENTED.findall(inspect.getsource(kinds[name])):
            part["properties"][field]["description"] = comment
    schema["properties"]["schema"] = {"const": records.SCHEMA}
    schema["required"] = ["schema", *schema["required"]]
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **_plain(schema)}, indent=1) + "\n"


def _plain(part: Any) -> Any:
    """Return the schema without the titles, which only repeat the names of fields."""
    if isinstance(part, list):
        return [_plain(one) for one in part]
    if isinstance(part, dict):
        return {key: _plain(one) for key, one in part.items() if key != "title" or not isinstance(one, str)}
    return part


if __name__ == "__main__":
    print(evaluation_schema(), end="")
