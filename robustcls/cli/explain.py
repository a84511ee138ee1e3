"""`robustcls explain`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.cli.console import note, table
from robustcls.cli.options import GroupedCommand, build, config_option, model_option, options
from robustcls.cli.places import check_not_lost, command_line, default_out, name_of, overwrite_option
from robustcls.core import plugins
from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.evaluation.config import METHODS, ExplainConfig

if TYPE_CHECKING:
    from robustcls.evaluation.subject import Subject


@click.command("explain", cls=GroupedCommand)
@model_option
@overwrite_option
@config_option
@options(ExplainConfig)
def command(flags: dict, config_file: str | None, model: str, overwrite: bool) -> None:
    """Draw attribution maps of clean and adversarial images, and measure whether they can be trusted.

    Writes maps.npz, measures.json and pictures (PNG) of some samples. On the correctly classified samples it measures:
    the similarity between the maps of clean and adversarial images, compared with noise and with a random map; completeness,
    insertion and deletion, infidelity and sensitivity; and whether maps change with the weights and with the class.

    \b
      robustcls explain --model ckpt.pt
      robustcls explain --model ckpt.pt --method gradcam --method deeplift --n 200
      robustcls explain --model ckpt.pt --method "integrated_gradients(steps=64)"
      robustcls explain --model ckpt.pt --attack interpretation
    """
    config = build(ExplainConfig, flags, config_file)

    folder = Path(config.out) if config.out else default_out(model, "explain")
    check_writable(folder / "maps.npz", inputs=[model])
    if not config.out:
        check_not_lost(folder / "measures.json", [name_of(model)], overwrite)
    for method in config.method or METHODS:
        plugins.resolved("attribution", method)
    with claim(folder, folder=True):
        explain_all(config, model, folder)


def explain_all(config: ExplainConfig, model: str, folder: Path) -> None:
    """Write the files and print their paths, after all checks of the model and the methods."""
    from robustcls.api import attack
    from robustcls.evaluation.attacks import as_attack
    from robustcls.evaluation.explain import explain_subject, supported_methods
    from robustcls.evaluation.subject import load_subject

    named = as_attack(config.attack)
    subject = load_subject(model, config)
    subject.threat.check_options(named.text, named.options)
    say = partial(note, quiet=config.quiet)
    for line in subject.notes:
        say(line)
    methods = supported_methods(subject, config.method or METHODS, strict=bool(config.method), say=say)
    if not methods:
        raise InputError("the model supports none of the default methods: name one with --method, such as occlusion")
    describe_methods(subject, methods, config.quiet)
    craft = partial(
        attack, subject.model, subject.x, subject.y, subject.threat, config.attack, seed=config.seed,
        index=subject.index, progress=not config.quiet,
    )  # fmt: skip
    for path in explain_subject(subject, config, methods, folder, craft=craft, command=command_line(), say=say):
        if path.name == "measures.json":
            say(f"\n{summarise(path)}\n")
        click.echo(path)


def describe_methods(subject: "Subject", methods: Sequence[str], quiet: bool) -> None:
    """Print what a reader of the maps must know, such as the layer and the grid of GradCAM."""
    from robustcls.attribution import note as describe

    for method in () if quiet else methods:
        if text := describe(subject.model, subject.x[:1], method):
            note(f"{method}: {text}")


COMPARED = {  # what the map of a clean image is compared with: key in the measures -> column heading
    ("adversarial", "kept"): "kept", ("adversarial", "flipped"): "flipped", ("benign_noise", ""): "noise",
    ("random_map", ""): "random",
}  # fmt: skip


def summarise(path: Path) -> str:
    """Return the measures in a file measures.json as text for a terminal."""
    from robustcls.results.records import Measures

    explanations = Measures.load(path).explanations
    if not explanations.n:
        return f"Nothing was measured: {explanations.attack} changed no correctly classified sample."
    rows, failures = [], []
    for one in explanations.methods:
        medians = {(like.against, like.label): like.measures["spearman"].median for like in one.likeness}
        failed = [check.id for check in one.checks if check.status == "fail"]
        cells = ["-" if (value := medians.get(key)) is None else f"{value:.2f}" for key in COMPARED]
        rows.append((one.method, *cells, str(len(failed))))
        failures += [f"{one.method} fails {', '.join(failed)}"] if failed else []
    lines = [
        f"{explanations.n} correctly classified samples that {explanations.attack} changed; {explanations.flipped} of them "
        "flipped.",
        "Median rank correlation of the clean image's map with that of the adversarial",
        "image (label kept, flipped), of noise of the same norm, and with a random map:",
        table(("", *COMPARED.values(), "checks failed"), rows),
        *failures,
    ]
    return "\n".join(lines)
