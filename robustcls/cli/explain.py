"""`robustcls explain`."""

from collections.abc import Sequence
from pathlib import Path

import click

from robustcls.cli.console import note, table
from robustcls.cli.options import MODEL_HELP, build, config_option, options
from robustcls.cli.places import check_not_lost, default_out, name_of, overwrite_option
from robustcls.core import plugins
from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.evaluation.config import METHODS, ExplainConfig


@click.command("explain")
@click.option(
    "--model",
    required=True,
    metavar="M",
    help=MODEL_HELP,
)
@overwrite_option
@config_option
@options(ExplainConfig)
def command(flags: dict, config_file: str | None, model: str, overwrite: bool) -> None:
    """Draw attribution maps of clean and adversarial images, and measure whether they can be trusted.

    Writes maps.npz, measures.json and a PNG for each of some samples. Measured are, on the samples that the model gets
    right: how like the maps of clean and adversarial images are, beside noise and a random map; completeness, insertion and
    deletion, infidelity, sensitivity; and whether maps change with the weights and with the class.

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
        draw_all(config, model, folder)


def draw_all(config: ExplainConfig, model: str, folder: Path) -> None:
    """Writes the files, and says which, once the model is found good."""
    from robustcls.cli.pictures import draw_pictures
    from robustcls.evaluation.attacks import as_attack
    from robustcls.evaluation.plan import allowed_methods
    from robustcls.evaluation.subject import load_subject

    attack = as_attack(config.attack)
    subject = load_subject(model, config)
    subject.threat.check_options(attack.text, attack.options)
    for line in subject.notes:
        note(line, config.quiet)
    methods = allowed_methods(subject, config.method, lambda text: note(text, config.quiet))
    if not methods:
        raise InputError("the model carries none of the default methods: name one with --method, such as occlusion")
    describe_methods(subject, methods, config.quiet)
    for path in draw_pictures(subject, config, methods, folder):
        if path.name == "measures.json":
            note(f"\n{summarise(path)}\n", config.quiet)
        click.echo(path)


def describe_methods(subject, methods: Sequence[str], quiet: bool) -> None:
    """Says what a reader of the maps must know, such as the layer of GradCAM and its grid."""
    from robustcls.attribution import note as describe

    x = subject.x[:1]
    for method in () if quiet else methods:
        if text := describe(subject.model, x, method):
            note(f"{method}: {text}")


SHOWN = (  # of the likeness of a clean image's map to others: who, and its heading
    ("adversarial", "kept", "kept"), ("adversarial", "flipped", "flipped"), ("benign_noise", "", "noise"),
    ("random_map", "", "random"),
)  # fmt: skip


def summarise(path: Path) -> str:
    """The measures in a file measures.json, for a terminal."""
    from robustcls.results.records import Measures

    found = Measures.load(path).explanations
    if not found.n:
        return f"Nothing was measured: {found.attack} moved no sample that the model gets right."
    rows, failures = [], []
    for its in found.methods:
        medians = {(like.against, like.label): like.measures["spearman"].median for like in its.likeness}
        bad = [check.id for check in its.checks if check.status == "fail"]
        cells = [medians.get(who[:2]) for who in SHOWN]
        rows.append((its.method, *("-" if cell is None else f"{cell:.2f}" for cell in cells), str(len(bad))))
        failures += [f"{its.method} fails {', '.join(bad)}"] if bad else []
    lines = [
        f"{found.n} samples that the model gets right and {found.attack} moved; {found.flipped} of them flipped.",
        "Median rank correlation of the clean image's map with that of the adversarial",
        "image (label kept, flipped), of noise of the same norm, and with a random map:",
        table(("", *(name for _, _, name in SHOWN), "checks failed"), rows),
        *failures,
    ]
    return "\n".join(lines)
