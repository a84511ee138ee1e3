"""File names in messages and notes: printable everywhere, and easy to redact."""

import re
from collections.abc import Sequence

_QUOTED = re.compile("“[^”]*”")
SHOWN = 3


def readable(name: str) -> str:
    """The name with the bytes that are no UTF-8 written as `\\xe9`, so that every page, file and picture can hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def quoted(name: str) -> str:
    """A file's name inside a sentence: “cat/1.png”. `without_names` finds it again."""
    plain = readable(name).replace("“", '"').replace("”", '"')
    return f"“{plain}”"


def some_of(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more


def without_names(text: str) -> str:
    """The text with every name that `quoted` put into it taken out."""
    return _QUOTED.sub("“…”", text)
