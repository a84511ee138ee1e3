"""`robustcls report`."""

from collections.abc import Sequence
from pathlib import Path

import click

from robustcls.cli.console import note, progress
from robustcls.cli.options import build, config_option, options
from robustcls.core import plugins
from robustcls.core.files import check_writable
from robustcls.core.policy import Policy
from robustcls.core.records import Evaluation
from robustcls.evaluation.config import METHODS, ReportConfig


@click.command("report")
@click.argument("files", nargs=-1, metavar="[FILE.json]...")
@click.option("--model", "models", multiple=True, metavar="M", help="Model to attack and explain first; repeatable.")
@click.option("--out", metavar="FILE.html", help="The report.  [default: report.html beside the first model or file]")
@click.option("--title", help="Title of the report.")
@click.option("--min-robust", type=float, metavar="SHARE", help="Threshold of the verdict, such as 0.40.")
@click.option("--min-clean", type=float, metavar="SHARE", help="Threshold of the verdict, such as 0.75.")
@click.option("--redact-images", is_flag=True, help="Leave the images out.")
@config_option
@options(ReportConfig)
def command(
    flags: dict,
    config_file: str | None,
    files: tuple[str, ...],
    models: tuple[str, ...],
    out: str | None,
    title: str | None,
    min_robust: float | None,
    min_clean: float | None,
    redact_images: bool,
) -> None:
    """Write the HTML report of evaluations, or of models after attacking and explaining them.

    With FILE.json alone it only renders. Two or more are shown side by side, compared where they judge the same samples.

    \b
      robustcls report --model ckpt.pt --each-alone
      robustcls report --model standard.pt --model pgd.pt --attack "pgd(steps=20)"
      robustcls report a/evaluation.json b/evaluation.json --out report.html
    """
    if not files and not models:
        raise click.UsageError("nothing to report: give --model or an evaluation's FILE.json")
    policy = Policy(min_clean=min_clean, min_robust=min_robust)
    target = Path(out) if out else _beside((*models, *files)[0])
    check_writable(target)
    evaluations = [Evaluation.load(file) for file in files]
    if models:
        config = build(ReportConfig, flags, config_file)
        evaluations += measure(models, config)
    elif flags.keys() - {"quiet"} or config_file:
        name = min(flags.keys() - {"quiet"}, default="config").replace("_", "-")
        raise click.UsageError(f"--{name} says how to judge a model: give it with --model")

    from robustcls.reporting import report

    report(evaluations, target, policy=policy, title=title, redact_images=redact_images)
    click.echo(target)


def evaluation_files(models: Sequence[str]) -> list[Path]:
    """evaluation.json beside each model; of models that share a folder, each its own, such as evaluation-pgd.json."""
    from robustcls.cli.subject import default_out

    homes = [default_out(model, "evaluation.json") for model in models]
    names = [Path(model).name.removesuffix(".pt").replace(":", "-") for model in models]
    return [
        home if homes.count(home) == 1 else home.with_name(f"evaluation-{name}.json")
        for home, name in zip(homes, names, strict=True)
    ]


def measure(models: Sequence[str], config: ReportConfig) -> list[Evaluation]:
    """Attacks and explains the models and writes their evaluations, once every model is found good."""
    from robustcls.cli.attack import summarise
    from robustcls.cli.explain import carried_methods
    from robustcls.cli.judging import chosen_attacks, judge_subject, set_task
    from robustcls.cli.subject import load_subject
    from robustcls.core.options import parse_batch_size
    from robustcls.evaluation.explanations import explain_judged
    from robustcls.evaluation.gallery import make_gallery
    from robustcls.runtime.device import keep_freed_memory, resolve_batch_size, resolve_device

    keep_freed_memory()
    methods: Sequence[str] = config.method or METHODS
    for method in methods:
        plugins.resolved("attribution", method)
    outs = evaluation_files(models)
    for out in outs:
        check_writable(out)
    subjects = [
        load_subject(model, config, config.n, chosen_attacks(config, config.norm or "linf")) for model in models
    ]
    wanted = methods if config.examples or config.maps_n else ()
    carried = [carried_methods(subject, wanted, config.method, config.quiet) for subject in subjects]
    tasks = [set_task(subject, config) for subject in subjects]
    evaluations = []
    for model, subject, task, out, methods in zip(models, subjects, tasks, outs, carried, strict=True):
        note("\n".join([model, *subject.notes]), config.quiet)
        judged = judge_subject(subject, config, task, progress(config.quiet))
        size = resolve_batch_size(
            parse_batch_size(config.batch_size), judged.x.shape[1:], resolve_device(config.device)
        )
        judged.evaluation.save(out)  # what follows may take long, or fail
        note(f"attribution maps of {config.examples} examples: {', '.join(methods)}", config.quiet)
        judged.evaluation.gallery = make_gallery(
            subject.loaded.model, judged, methods, config.examples, config.seed, size
        )
        if config.maps_n:
            judged.evaluation.explanations = explain_judged(
                subject.loaded.model, judged, methods, config.maps_n, config.seed, progress=not config.quiet,
                on_method=lambda method: note(f"measuring the maps of {method}", config.quiet),
            )  # fmt: skip
        judged.evaluation.save(out)
        note(f"\n{summarise(judged.evaluation)}\n\n{out}\n\n", config.quiet)
        evaluations.append(judged.evaluation)
    return evaluations


def _beside(spec: str) -> Path:
    return Path(spec).parent / "report.html" if Path(spec).exists() else Path("report.html")
