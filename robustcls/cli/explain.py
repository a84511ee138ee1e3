"""`robustcls explain`."""

from pathlib import Path

import click

from robustcls.cli.console import note
from robustcls.cli.options import build, config_option, options
from robustcls.core import plugins
from robustcls.core.files import check_writable
from robustcls.evaluation.config import METHODS, ExplainConfig


@click.command("explain")
@click.option(
    "--model",
    required=True,
    metavar="M",
    help="Checkpoint, state dict (with --arch), module:callable, torchvision/NAME, timm/NAME or FILE.onnx.",
)
@config_option
@options(ExplainConfig)
def command(flags: dict, config_file: str | None, model: str) -> None:
    """Draw attribution maps of clean and adversarial images: a PNG per sample, the arrays in maps.npz.

    \b
      robustcls explain --model ckpt.pt
      robustcls explain --model ckpt.pt --method gradcam --n 20
      robustcls explain --model ckpt.pt --method "integrated_gradients(steps=64)"
    """
    config = build(ExplainConfig, flags, config_file)

    from robustcls.cli.pictures import draw_pictures
    from robustcls.cli.subject import default_out, load_subject

    folder = Path(config.out) if config.out else default_out(model, "explain")
    check_writable(folder / "maps.npz")
    methods = config.method or METHODS
    for method in methods:
        plugins.resolved("attribution", method)
    subject = load_subject(model, config, config.n, [config.attack])
    for line in subject.notes:
        note(line, config.quiet)
    for path in draw_pictures(subject, config, methods, folder):
        click.echo(path)
