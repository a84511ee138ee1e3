"""`robustcls report`."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustcls.cli.console import note, progress
from robustcls.cli.options import MODEL_HELP, GroupedCommand, config_option, options
from robustcls.cli.places import check_not_lost, command_line, keep_earlier, name_of, overwrite_option
from robustcls.core.claims import claim
from robustcls.core.config import read_toml, resolve
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, is_stdout, is_stream
from robustcls.evaluation.config import ReportConfig, check_license
from robustcls.evaluation.profiles import layered

if TYPE_CHECKING:
    from robustcls.results.policy import Policy
    from robustcls.results.records import Evaluation

STATED = ("intended_use", "license", "positive")  # what is stated of a model, whether measured or only rendered
RENDERING = {"quiet", "redact_names", *STATED}  # options that also hold where evaluations are only rendered


@click.command("report", cls=GroupedCommand)
@click.argument("files", nargs=-1, metavar="[FILE.json]...")
@click.option(
    "--model", "models", multiple=True, metavar="M", help=f"Attacked and explained first; repeatable. {MODEL_HELP}"
)
@click.option("--out", metavar="FILE.html", help="The report.  [default: report.html beside the first model or file]")
@click.option("--title", help="Title of the report.")
@click.option("--policy", "policy_file", metavar="FILE.toml", help="Thresholds of the verdict; --min-... win over it.")
@click.option("--min-robust", type=float, metavar="SHARE", help="Threshold of the verdict, such as 0.40.")
@click.option("--min-clean", type=float, metavar="SHARE", help="Threshold of the verdict, such as 0.75.")
@click.option(
    "--redact-images", is_flag=True, help="Leave images and attribution maps out of every file that is written."
)
@click.option("--assets", metavar="DIR", help="Put the gallery's images there, lossless, instead of into the page.")
@click.option("--model-card", is_flag=True, help="Also write MODEL_CARD.md beside each model or file.")
@click.option("--index", "index_folder", metavar="DIR", help="List all evaluations below a folder on one page.")
@overwrite_option
@config_option
@options(ReportConfig)
def command(
    flags: dict,
    config_file: str | None,
    files: tuple[str, ...],
    models: tuple[str, ...],
    out: str | None,
    title: str | None,
    policy_file: str | None,
    min_robust: float | None,
    min_clean: float | None,
    redact_images: bool,
    assets: str | None,
    model_card: bool,
    index_folder: str | None,
    overwrite: bool,
) -> None:
    """Write the HTML report of evaluations, or of models after attacking and explaining them.

    With FILE.json alone it only renders. Two or more are shown side by side, compared where they judge the same samples.
    A profile says how much is measured: quick is a look, standard the usual report, full what a paper would show; what it
    leaves out is shown as not run. quick keeps a time budget, as --minutes does: it measures the model's speed first, and
    takes fewer samples, and says so, where they would not fit.

    \b
      robustcls report --model ckpt.pt
      robustcls report --model ckpt.pt --profile quick --policy policy.toml
      robustcls report --model standard.pt --model pgd.pt --attack "pgd(steps=20)"
      robustcls report a/evaluation.json b/evaluation.json --out report.html
      robustcls report evaluation.json --model-card --license MIT
      robustcls report --index reports/
    """
    from robustcls.reporting.scrub import without_arrays, without_file_names
    from robustcls.results.policy import Policy
    from robustcls.results.records import Evaluation
    from robustcls.results.stated import with_stated

    specs = (*models, *files)
    if not specs and not index_folder:
        raise click.UsageError("nothing to report: give --model or an evaluation's FILE.json, or --index with a folder")
    if not specs and (
        unused := [
            name
            for name, value in (
                ("out", out),
                ("assets", assets),
                ("model-card", model_card),
                ("redact-images", redact_images),
            )
            if value
        ]
    ):
        raise click.UsageError(f"--{unused[0]} is about a report: give it with --model or an evaluation's FILE.json")
    policy = Policy.load(policy_file, min_clean=min_clean, min_robust=min_robust)
    config = configure(flags, config_file) if models else None
    given = {*flags, *(read_toml(config_file) if models and config_file else ())}
    stated = {name: flags[name] for name in STATED if name in flags}
    check_license(stated.get("license"))
    if not models and (flags.keys() - RENDERING or config_file):
        name = min(flags.keys() - RENDERING, default="config").replace("_", "-")
        raise click.UsageError(f"--{name} says how to judge a model: give it with --model")
    if specs:
        places = choose_places(models, files, out, model_card, assets)
        loaded = evaluations = [with_stated(Evaluation.load(file), **stated) for file in files]
        if flags.get("redact_names"):
            evaluations = [without_file_names(one) for one in evaluations]
        names = [*map(name_of, models), *(found.model.name for found in evaluations)]
        for path, whose in places.unnamed(names):
            check_not_lost(path, whose, overwrite)
        with ExitStack() as held:
            for path in places.written:
                held.enter_context(claim(path))
            if assets:
                held.enter_context(claim(assets, "--assets", folder=True))
            if config:
                evaluations = measure(models, config, places.evaluations, redact_images, given, overwrite) + evaluations
            redacted = [("images", without_arrays)] if redact_images else []
            redacted += [("names of image files", without_file_names)] if flags.get("redact_names") else []
            for what, without in redacted:
                warn_of_what_stays(files, loaded, what, without)
            _write(evaluations, places, policy, title, redact_images, assets)
    if index_folder:
        from robustcls.reporting.index import index

        click.echo(index(index_folder, policy=policy, title=None if specs else title))


def configure(flags: Mapping[str, Any], config_file: str | None) -> ReportConfig:
    """defaults < profile < configuration file < flags. Raises InputError."""
    return resolve(ReportConfig, *layered(read_toml(config_file) if config_file else {}, flags))


@dataclasses.dataclass
class Places:
    """Where the files of a report go."""

    page: Path
    named: bool  # the page, by --out
    evaluations: list[Path]  # one of each model
    cards: list[Path]  # one of each model and each file, where they were asked for

    @property
    def written(self) -> list[Path]:
        return [self.page, *self.evaluations, *self.cards]

    def unnamed(self, names: Sequence[str]) -> Iterator[tuple[Path, Sequence[str]]]:
        """The places that nobody named, each with the models whose files may be there. names: of all models and files."""
        from robustcls.reporting.card import beside_card

        if not self.named:
            yield self.page, names
        for path, name in zip(self.evaluations, names, strict=False):
            yield from ((path, [name]), (unfinished_beside(path), [name]))
        for path, name in zip(self.cards, names, strict=False):
            yield from ((path, [name]), (beside_card(path), [name]))


def choose_places(
    models: Sequence[str], files: Sequence[str], out: str | None, model_card: bool, assets: str | None
) -> Places:
    """Beside the model or the file; of a model from code beside the page. Raises InputError where one cannot be written."""
    specs = (*models, *files)
    page = Path(out) if out else _beside(specs[0])
    home = Path() if is_stream(page) else page.parent
    evaluations = beside_each(models, "evaluation.json", home)
    places = Places(page, bool(out), evaluations, beside_each(specs, "MODEL_CARD.md", home) if model_card else [])
    for path in places.written:
        check_writable(path, inputs=specs)
    if page in places.cards:
        raise InputError(f"--out {page} is where the model card goes: name another file with --out")
    if assets and is_stream(page):
        raise InputError(f"--assets lie beside a page, and --out {page} is a pipe or a device: name a file with --out")
    return places


def unfinished_beside(path: Path) -> Path:
    """Where an evaluation is kept until all parts are measured."""
    return path.with_name(f"{path.stem}-unfinished.json")


def warn_of_what_stays(
    files: Sequence[str],
    evaluations: Sequence["Evaluation"],
    what: str,
    without: Callable[["Evaluation"], "Evaluation"],
) -> None:
    """Says which files still hold what a page that is made from them leaves out."""
    if full := [file for file, found in zip(files, evaluations, strict=True) if without(found) != found]:
        note(f"the {what} are left out of the page alone: {', '.join(full)} still holds them", quiet=False)


def _write(
    evaluations: Sequence["Evaluation"],
    places: Places,
    policy: "Policy",
    title: str | None,
    redact_images: bool,
    assets: str | None,
) -> None:
    from robustcls.reporting import report
    from robustcls.reporting.card import write_card

    folder = Path(assets) if assets else None
    report(evaluations, places.page, policy=policy, title=title, redact_images=redact_images, assets=folder)
    aside = is_stdout(places.page)
    click.echo(places.page, err=aside)
    for evaluation, card in zip(evaluations, places.cards, strict=bool(places.cards)):
        for path in write_card(evaluation, card, policy):
            click.echo(path, err=aside)


def beside_each(specs: Sequence[str], name: str, home: Path) -> list[Path]:
    """A file beside each model or evaluation, in `home` for a model from code; of those that share a folder, each its own,
    such as evaluation-pgd.json.
    """
    homes = [Path(spec).parent / name if Path(spec).exists() else home / name for spec in specs]
    tails = [Path(spec).name.removesuffix(".pt").removesuffix(".json").replace(":", "-") for spec in specs]
    named = [
        home if homes.count(home) == 1 else home.with_name(f"{home.stem}-{tail}{home.suffix}")
        for home, tail in zip(homes, tails, strict=True)
    ]
    for place, path in enumerate(named):
        if path in named[:place]:
            raise InputError(f"{specs[place]} was given twice, or shares its name: give each model and each file once")
    return named


def measure(
    models: Sequence[str],
    config: ReportConfig,
    outs: Sequence[Path],
    redact_images: bool,
    given: Collection[str] = (),
    overwrite: bool = False,
) -> list["Evaluation"]:
    """Attacks and explains the models and writes their evaluations to outs, once every model is found good.

    redact_images: the evaluations hold no images and no maps, in no file. given: options that the user
    named, whose counts win over the budget of the profile. overwrite: keep no earlier evaluation.
    """
    from robustcls.cli.attack import summarise
    from robustcls.cli.explain import describe_methods
    from robustcls.core import plugins
    from robustcls.evaluation.budget import estimate
    from robustcls.evaluation.evaluate import evaluate_subject
    from robustcls.evaluation.plan import choose_attacks, plan_from
    from robustcls.evaluation.subject import load_subjects
    from robustcls.reporting.scrub import without_arrays
    from robustcls.runtime.device import keep_freed_memory

    keep_freed_memory()
    for method in config.method:
        plugins.resolved("attribution", method)
    choose_attacks(config.attack or None, config.suite, config.norm or "linf")  # a typo is found at once
    say = partial(note, quiet=config.quiet)
    subjects = load_subjects(models, config)
    plans = [plan_from(config, subject, say=say) for subject in subjects]
    evaluations = []
    for model, its, out in zip(models, estimate(subjects, plans, config, given), outs, strict=True):
        subject = its.subject
        note("\n".join([model, *subject.notes]), config.quiet)
        describe_methods(subject, its.plan.methods, config.quiet)
        budget, text = its.begin(given)
        note(text, config.quiet)
        unfinished = unfinished_beside(out)
        kept: list[Path] = []

        def save(found: "Evaluation", path: Path = unfinished, kept: list[Path] = kept) -> None:
            (without_arrays(found) if redact_images else found).save(path)
            kept.append(path)

        try:
            found = evaluate_subject(
                subject, its.plan, progress=None if config.quiet else progress(False), budget=budget, pace=its.pace,
                say=say, done=save, options=config, command=command_line(),
            )  # fmt: skip
        except BaseException:
            note(f"what was measured is kept in {unfinished}", config.quiet or not kept)
            raise
        if not overwrite:
            keep_earlier(out, found, images=not redact_images, names=not config.redact_names)
        save(found, out)
        unfinished.unlink()
        note(f"\n{summarise(found)}\n\n{out}\n\n", config.quiet)
        del found.examples  # in memory of one model at a time
        evaluations.append(found)
    return evaluations


def _beside(spec: str) -> Path:
    return Path(spec).parent / "report.html" if Path(spec).exists() else Path("report.html")
