"""The exception for wrong usage or wrong input.

Messages write an option in backticks, with its Python name: `eps` or `eps=0.5`. The command line shows it as a flag.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Wrong usage or wrong input. The one-line message says what is wrong, where, and how to fix it. Exit status 2."""


def as_flags(text: str, flags: Mapping[str, str]) -> str:
    """Return the text with options in backticks written as flags: `eps=0.5` becomes --eps 0.5.

    flags: option name in Python -> flag. Other names in backticks stay unchanged.
    """

    quotes = "\"'"

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in flags:
            return found[0]
        plain = "" if value is None or value == "True" else f" {value.strip('[]').strip(quotes)}"
        return flags[name] + plain

    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", flag, text)


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """Return an InputError that lists the known names and suggests the nearest one, if there is one."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(
        f"unknown {what} {str(name)!r}: {hint}there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}"
    )


def one_line(error: BaseException) -> str:
    """Return the class and the text of an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def as_input_error(what: str, hint: str = "") -> Iterator[None]:
    """Convert any exception of user code or of a library into an InputError: `what: class: text`, followed by the hint."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {one_line(error)}{hint}") from error
