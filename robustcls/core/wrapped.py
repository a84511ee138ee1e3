"""`--model` specs with wrappers around models: `averaged(ckpt.pt, draws=20)`, `ensemble(a.pt, b.pt)`. Without PyTorch."""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcls.core import plugins
from robustcls.core.errors import InputError, unknown

_CALL = re.compile(r"([A-Za-z_][\w.]*(?::[A-Za-z_]\w*)?)\((.*)\)\Z", re.DOTALL)
OPTION = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.+?)\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Wrapped:
    """A `--model` spec as a tree: either the spec of one model, or a wrapper with the models inside it."""

    spec: str = ""  # spec of a model without wrappers
    wrapper: plugins.Spec | None = None
    inside: tuple["Wrapped", ...] = ()

    @property
    def first(self) -> str:
        """The spec of the first innermost model."""
        return self.inside[0].first if self.inside else self.spec

    @property
    def wrappers(self) -> list[plugins.Spec]:
        """The wrappers around the first model, from the innermost outwards."""
        return [*self.inside[0].wrappers, self.wrapper] if self.wrapper else []

    def name(self, call: Callable[[str], str] = lambda spec: spec) -> str:
        """Return the name, which is a spec again. call: maps the spec of an inner model to its name."""
        if self.wrapper is None:
            return call(self.spec)
        return wrapped_name([one.name(call) for one in self.inside], self.wrapper)


def read_wrapped(spec: str) -> Wrapped:
    """Parse a spec into a tree.

    A wrapper is `NAME(MODEL, option=value)`, where NAME is in `models/wrappers` or is user code, `package.module:name`. Values
    need no quotes: a layer is written as `layer=features.0`. An option without a default may be given by position, as in
    `coarse(MODEL, tree.toml)`. User code, and wrappers whose file sets `SEVERAL = True`, take any number of models. Raises
    InputError for an unknown wrapper and for a wrapper without a model.
    """
    call = _CALL.match(spec.strip())
    if not call or Path(spec).exists() or "://" in spec:
        return Wrapped(spec)
    name, inside = call.groups()
    parts = [part.strip() for part in at_commas(inside)]
    own = ":" in name
    if not own and name not in plugins.names("wrapper"):
        raise unknown("wrapper of a model", name, plugins.names("wrapper"))
    count = next((place for place, part in enumerate(parts) if not part or OPTION.match(part)), len(parts))
    if count == 0:
        raise InputError(f"{spec} is a wrapper around nothing: name the model first, as in {name}(ckpt.pt)")
    models, options = parts[:count], parts[count:]
    declared = [option for one in plugins.describe("wrapper") if one.name == name for option in one.options]
    if not own and not plugins.constant("wrapper", name, "SEVERAL"):
        models, placed = models[:1], models[1:]
        needed = [option.name for option in declared if option.default == "required"]
        if len(placed) > len(needed):
            raise InputError(f"{spec}: {name} takes one model, and {placed[len(needed)]!r} is not option=value")
        options += [f"{option}={value}" for option, value in zip(needed, placed, strict=False)]
    if twice := next((model for model in models if models.count(model) > 1 and Path(model).exists()), ""):
        raise InputError(f"{spec} names {twice} twice: name different models")  # code may give different models
    texts = {option.name for option in declared if option.type.startswith("str")}
    options = [_quoted(option, texts) for option in options]
    wrapper = plugins.parse("wrapper", f"{name}({', '.join(options)})")
    return Wrapped("", wrapper, tuple(map(read_wrapped, models)))


def wrapped_name(names: Sequence[str], wrapper: plugins.Spec) -> str:
    """Return the name of a wrapper around models of these names."""
    return f"{wrapper.name}({', '.join([*names, *(f'{key}={value}' for key, value in wrapper.options)])})"


def at_commas(text: str) -> list[str]:
    """Split the text at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _quoted(option: str, texts: set[str]) -> str:
    """Return an option with quotes around a text value. texts: names of the options whose value is always text."""
    match = OPTION.match(option)
    if not match:
        return option
    name, value = match.groups()
    try:
        plain = isinstance(ast.literal_eval(value), str) or name not in texts or value == "None"
    except (ValueError, SyntaxError):
        plain = False
    return option if plain else f"{name}={value!r}"
