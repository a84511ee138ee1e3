"""File names in messages and notes: printable everywhere and easy to redact."""

import re
from collections.abc import Sequence

_QUOTED = re.compile("“[^”]*”")
SHOWN = 3


def readable(name: str) -> str:
    """Return the name with bytes that are not UTF-8 written as `\\xe9`, so that every output format can contain it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def quoted(name: str) -> str:
    """Return a file name for use in a sentence: “cat/1.png”. `without_names` can find and remove it."""
    plain = readable(name).replace("“", '"').replace("”", '"')
    return f"“{plain}”"


def some_of(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names, quoted, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more


def without_names(text: str) -> str:
    """Return the text without the names that `quoted` inserted."""
    return _QUOTED.sub("“…”", text)
