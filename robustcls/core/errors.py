"""The one exception that means wrong usage or input.

Texts name an option in backticks, as Python writes it: `eps` or `eps=0.5`. The command line shows it as a flag.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Wrong usage or input. The message is one line: what, where, how to fix it. The command line ends with status 2."""


def as_flags(text: str, flags: Mapping[str, str]) -> str:
    """The text with options in backticks as flags: `eps=0.5` as --eps 0.5, `attacks=["fgsm"]` as --attack fgsm.

    flags: by the option's name in Python; other names stay as they are.
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
    """An InputError that names the nearest of the known names, or all of them when none is near."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(
        f"unknown {what} {str(name)!r}: {hint}there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}"
    )


def one_line(error: BaseException) -> str:
    """The class and the text of an exception, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def as_input_error(what: str, hint: str = "") -> Iterator[None]:
    """Turns whatever code of the user's, or a library, raises into an InputError: `what: class: text`, and the hint."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {one_line(error)}{hint}") from error
