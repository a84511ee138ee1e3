"""Command-line options, generated from dataclass fields."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from robustcls.core.config import option, read_toml, resolve, union_parts

if TYPE_CHECKING:
    from robustcls.results.policy import Policy

MODEL_HELP = (
    "Checkpoint, state dict (with --arch), torchvision/NAME, timm/NAME, FILE.onnx, a folder of robustcls export, "
    "http://HOST:PORT/v2/models/NAME of a running service, or module:callable, which is a torch.nn.Module on [0, 1] "
    "pixels or a function without arguments that returns one. May be inside a wrapper: averaged(M, draws=20), "
    "coarse(M, tree=FILE.toml), ensemble(M, M), smoothed(M, sigma=0.25), straight_through(M, layer=NAME)."
)
PYTHON = {"attacks": "attack", "path": "out"}  # Python names of options whose flag has another name
GROUPS = (
    "Data", "Model", "Attack", "Certificate", "Optimisation", "Explanation", "Report", "Verdict", "Benchmark", "Network",
    "Limits", "Scale", "Runtime", "Output",
)  # fmt: skip
OWN = {  # groups of options that a command declares itself; all others belong to the group Output
    "model": "Model", "models": "Model", "resume": "Runtime", "dry_run": "Runtime", "config_file": "Runtime",
}  # fmt: skip
T = TypeVar("T")
Command = Callable[..., Any]


@dataclass(kw_only=True)
class PolicyOptions:
    """The thresholds of a verdict."""

    GROUP: ClassVar[str] = "Verdict"

    policy: str | None = option(None, "File with thresholds. The options below override it.", metavar="FILE.toml")
    min_robust: float | None = option(None, "Minimum robust accuracy, such as 0.40.", metavar="SHARE")
    min_clean: float | None = option(None, "Minimum clean accuracy, such as 0.75.", metavar="SHARE")
    min_certified: float | None = option(
        None,
        "Minimum certified accuracy, such as 0.30, at the radius of the policy, else of the attacks, else the first certified "
        "radius.",
        metavar="SHARE",
    )

    def load_policy(self) -> "Policy":
        """Return the policy. Raises InputError if the file is not a policy, or if a threshold is not between 0 and 1."""
        from robustcls.results.policy import Policy

        return Policy.load(
            self.policy, min_clean=self.min_clean, min_robust=self.min_robust, min_certified=self.min_certified
        )


def options(config: type, into: str = "") -> Callable[[Command], Command]:
    """Return a decorator that adds a command-line option for each field of a dataclass.

    The command receives the options that the user set as one dict, the parameter `flags`. With `into`, it receives an
    instance of the dataclass in the parameter of that name instead.
    """
    hints = typing.get_type_hints(config)
    fields = [field for field in dataclasses.fields(config) if "help" in field.metadata]

    def decorate(command: Command) -> Command:
        names = {field.name for field in fields}

        @functools.wraps(command)
        def collect(**given: Any) -> Any:
            values = {name: given.pop(name) for name in names}
            flags = {name: value for name, value in values.items() if value not in (None, ())}
            return command(**{into: config(**flags)} if into else {"flags": flags}, **given)

        decorated: Command = collect
        for field in reversed(fields):
            group = field.metadata.get("group") or _group_of(config, field.name)
            decorated = _click_option(field, hints[field.name], group)(decorated)
        return decorated

    return decorate


def flags_of(command: click.Command | None) -> dict[str, str]:
    """Return the command's flags, keyed by the names of the options in Python."""
    names = [name for parameter in command.params for name in parameter.opts] if command else []
    flags = {name.lstrip("-").replace("-", "_"): name for name in names if name.startswith("--")}
    return flags | {python: flags[name] for python, name in PYTHON.items() if name in flags}


model_option = click.option("--model", required=True, metavar="M", help=MODEL_HELP)
config_option = click.option(
    "--config", "config_file", metavar="FILE.toml", help="Read options from this file; flags override it."
)


def build(config: type[T], flags: Mapping[str, Any], config_file: str | None) -> T:
    """Return the options: flags override the configuration file, which overrides the defaults. Raises InputError."""
    return resolve(config, read_toml(config_file) if config_file else {}, flags)


class _Option(click.Option):
    """An option with the group under which the help lists it."""

    def __init__(self, *arguments: Any, group: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Argument):
                continue  # shown in the usage line
            group = getattr(parameter, "group", OWN.get(parameter.name or "", "Output"))
            if record := parameter.get_help_record(context):
                groups[group].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(f"{name} options"):
                    formatter.write_dl(records)


def _group_of(config: type, name: str) -> str:
    """Return the GROUP of the class that declares the option."""
    return next(getattr(base, "GROUP", "Output") for base in config.__mro__ if name in inspect.get_annotations(base))


def _click_option(field: dataclasses.Field, hint: Any, group: str) -> Callable[[Command], Command]:
    name = f"--{field.name.replace('_', '-')}"
    parts = [part for part in union_parts(hint) if part is not type(None)]
    kind = str if str in parts else parts[0]  # int | str is parsed later
    help_text = field.metadata["help"]
    settings: dict[str, Any] = {"default": None}
    if field.default not in (None, (), dataclasses.MISSING) and field.default is not False:
        shown = f"{field.default:g}" if isinstance(field.default, float) else field.default
        help_text += f"  [default: {shown}]"
    if kind is bool:
        settings["is_flag"] = True
    elif typing.get_origin(kind) is tuple:
        settings |= {"multiple": True, "type": str}
    elif typing.get_origin(kind) is typing.Literal:
        settings["type"] = click.Choice(typing.get_args(kind))
    else:
        settings["type"] = kind
    if "metavar" in field.metadata:
        settings["metavar"] = field.metadata["metavar"]
    # --n also has a short form, because torchrun takes --n for an abbreviation of one of its own options.
    names = ("-n", name) if name == "--n" else (name,)
    return click.option(*names, field.name, help=help_text, cls=_Option, group=group, **settings)
