"""`robustcls report`."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from robustcls.cli.attack import INCONCLUSIVE
from robustcls.cli.console import note, progress
from robustcls.cli.options import MODEL_HELP, GroupedCommand, PolicyOptions, config_option, options
from robustcls.cli.places import (
    OVERWRITE_HELP,
    check_not_lost,
    command_line,
    default_out,
    home_of,
    keep_earlier,
    name_of,
    note_if_replaced,
)
from robustcls.core.claims import claim
from robustcls.core.config import option, read_toml, resolve
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, is_stdout, is_stream
from robustcls.evaluation.config import ReportConfig, check_license
from robustcls.evaluation.profiles import layered

if TYPE_CHECKING:
    from robustcls.results.policy import Policy
    from robustcls.results.records import Evaluation

STATED = ("intended_use", "license", "positive", "tree")  # facts about a model that need no measurement
RENDERING = {"quiet", "redact_names", *STATED}  # options that are also allowed without --model


@dataclass(kw_only=True)
class PageOptions(PolicyOptions):
    """Which models are reported and which files are written. How a model is measured is in ReportConfig."""

    GROUP: ClassVar[str] = "Output"

    model: tuple[str, ...] = option(
        (), f"Model to attack and explain before reporting; repeatable. {MODEL_HELP}", metavar="M", group="Model"
    )
    title: str | None = option(None, "Title of the report.", group="Report")
    index: str | None = option(
        None, "Write a page that lists all evaluations below this folder.", metavar="DIR", group="Report"
    )
    out: str | None = option(
        None, "Report to write.  [default: report.html beside the first model or file]", metavar="FILE.html"
    )
    assets: str | None = option(
        None, "Write the gallery's images to this folder, lossless, instead of into the page.", metavar="DIR"
    )
    model_card: bool = option(False, "Also write MODEL_CARD.md beside each model or file.")
    redact_images: bool = option(False, "Leave images and attribution maps out of all files that are written.")
    overwrite: bool = option(False, OVERWRITE_HELP)


@click.command("report", cls=GroupedCommand)
@click.argument("files", nargs=-1, metavar="[FILE.json]...")
@config_option
@options(PageOptions, "page")
@options(ReportConfig)
def command(flags: dict, page: PageOptions, config_file: str | None, files: tuple[str, ...]) -> int:
    """Write the HTML report of evaluations, or of models after attacking and explaining them.

    With only FILE.json, existing evaluations are rendered. Two or more are shown side by side, and compared if they have the
    same samples.

    With --model, the profile decides how much is measured: quick for a first look, standard for the usual report, full for
    a publication. The report lists what was not run. The profile quick keeps a time budget, like --minutes: it measures the
    speed of the model first, then uses fewer samples if necessary, and reports this.

    \b
      robustcls report --model ckpt.pt
      robustcls report --model ckpt.pt --profile quick --policy policy.toml
      robustcls report --model standard.pt --model pgd.pt --attack "pgd(steps=20)"
      robustcls report a/evaluation.json b/evaluation.json --out report.html
      robustcls report evaluation.json --model-card --license MIT
      robustcls report --index reports/
    """
    from robustcls.reporting.scrub import without_arrays, without_file_names
    from robustcls.results.contradictions import broken_proof, contradicted, with_check
    from robustcls.results.records import Evaluation
    from robustcls.results.stated import with_stated

    models, specs = page.model, (*page.model, *files)
    evaluations: list[Evaluation] = []
    if not specs and not page.index:
        raise click.UsageError("nothing to report: give --model or an evaluation's FILE.json, or --index with a folder")
    for name in () if specs else ("out", "assets", "model_card", "redact_images"):
        if getattr(page, name):
            flag = name.replace("_", "-")
            raise click.UsageError(f"--{flag} is about a report: give it with --model or an evaluation's FILE.json")
    policy = page.load_policy()
    config = configure(flags, config_file) if models else None
    given = {*flags, *(read_toml(config_file) if models and config_file else ())}
    stated = {name: flags[name] for name in STATED if name in flags}
    check_license(stated.get("license"))
    if not models and (flags.keys() - RENDERING or config_file):
        name = min(flags.keys() - RENDERING, default="config").replace("_", "-")
        raise click.UsageError(f"--{name} says how to measure a model: give it with --model")
    if specs:
        places = choose_places(page, files)
        loaded = evaluations = [with_stated(with_check(Evaluation.load(file)), **stated) for file in files]
        if flags.get("redact_names"):
            evaluations = [without_file_names(one) for one in evaluations]
        names = [*map(name_of, models), *(found.model.name for found in evaluations)]
        for path, whose in places.unnamed(names):
            check_not_lost(path, whose, page.overwrite)
        with ExitStack() as held:
            for path in places.written:
                held.enter_context(claim(path))
            if page.assets:
                held.enter_context(claim(page.assets, "--assets", folder=True))
            if config:
                evaluations = measure(page, config, places.evaluations, given) + evaluations
            redacted = [("images", without_arrays)] if page.redact_images else []
            redacted += [("names of image files", without_file_names)] if flags.get("redact_names") else []
            for kind, without in redacted:
                warn_of_what_stays(files, loaded, kind, without)
            _write(evaluations, places, page, policy)
    if page.index:
        from robustcls.reporting.index import index

        click.echo(index(page.index, policy=policy, title=None if specs else page.title))
    for one in filter(contradicted, evaluations):
        note(f"warning: {one.model.name}: {broken_proof(one)}", quiet=False)
    return INCONCLUSIVE if any(map(contradicted, evaluations)) else 0


def configure(flags: Mapping[str, Any], config_file: str | None) -> ReportConfig:
    """Return the options: flags override the configuration file, then the profile, then the defaults. Raises InputError."""
    return resolve(ReportConfig, *layered(read_toml(config_file) if config_file else {}, flags))


@dataclass
class Places:
    """The output paths of a report."""

    page: Path
    named: bool  # whether --out names the page
    evaluations: list[Path]  # one per model
    cards: list[Path]  # one per model and file, with --model-card

    @property
    def written(self) -> list[Path]:
        return [self.page, *self.evaluations, *self.cards]

    def unnamed(self, names: Sequence[str]) -> Iterator[tuple[Path, Sequence[str]]]:
        """Yield the default paths, each with the names of the models whose files may be there.

        names: names of all models and files.
        """
        from robustcls.reporting.card import beside_card

        if not self.named:
            yield self.page, names
        for path, name in zip(self.evaluations, names, strict=False):
            yield from ((path, [name]), (unfinished_beside(path), [name]))
        for path, name in zip(self.cards, names, strict=False):
            yield from ((path, [name]), (beside_card(path), [name]))


def choose_places(page: PageOptions, files: Sequence[str]) -> Places:
    """Return the output paths: beside each model or file, or beside the page for a model from code.

    Raises InputError if a path cannot be written.
    """
    specs = (*page.model, *files)
    out = Path(page.out) if page.out else default_out(specs[0], "report.html")
    home = Path() if is_stream(out) else out.parent
    evaluations = beside_each(page.model, "evaluation.json", home)
    cards = beside_each(specs, "MODEL_CARD.md", home) if page.model_card else []
    places = Places(out, bool(page.out), evaluations, cards)
    for path in places.written:
        check_writable(path, inputs=specs)
    if out in cards:
        raise InputError(f"--out {out} is where the model card goes: name another file with --out")
    if page.assets and is_stream(out):
        raise InputError(f"--assets lie beside a page, and --out {out} is a pipe or a device: name a file with --out")
    return places


def unfinished_beside(path: Path) -> Path:
    """Return the path of an evaluation until all its parts are measured."""
    return path.with_name(f"{path.stem}-unfinished.json")


def warn_of_what_stays(
    files: Sequence[str],
    evaluations: Sequence["Evaluation"],
    kind: str,
    without: Callable[["Evaluation"], "Evaluation"],
) -> None:
    """Print a note about files that still contain what is redacted from the page that is rendered from them."""
    if full := [file for file, found in zip(files, evaluations, strict=True) if without(found) != found]:
        note(f"the {kind} are left out of the page alone: {', '.join(full)} still holds them", quiet=False)


def _write(evaluations: Sequence["Evaluation"], places: Places, page: PageOptions, policy: "Policy") -> None:
    from robustcls.reporting import report
    from robustcls.reporting.card import write_card

    report(
        evaluations, places.page, policy=policy, title=page.title, redact_images=page.redact_images, assets=page.assets
    )
    aside = is_stdout(places.page)
    click.echo(places.page, err=aside)
    for evaluation, card in zip(evaluations, places.cards, strict=bool(places.cards)):
        for path in write_card(evaluation, card, policy):
            click.echo(path, err=aside)


def beside_each(specs: Sequence[str], name: str, home: Path) -> list[Path]:
    """Return the path of a file beside each model or evaluation, in `home` for a model from code.

    If several share a folder, their names are appended: evaluation-pgd.json.
    """
    homes = [home_of(spec, home) / name for spec in specs]
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
    page: PageOptions, config: ReportConfig, outs: Sequence[Path], given: Collection[str] = ()
) -> list["Evaluation"]:
    """Attack and explain the models, after all of them were loaded and checked, and write their evaluations to `outs`.

    given: options that the user set; numbers of samples among them are not reduced by the profile's time budget.
    """
    from robustcls.cli.attack import summarise
    from robustcls.cli.explain import describe_methods
    from robustcls.core import plugins
    from robustcls.evaluation.budget import estimate
    from robustcls.evaluation.certificate_match import certificates_at
    from robustcls.evaluation.evaluate import evaluate_subject
    from robustcls.evaluation.plan import choose_attacks, plan_from
    from robustcls.evaluation.subject import load_subjects
    from robustcls.models.remote import check_answered
    from robustcls.reporting.scrub import without_arrays
    from robustcls.runtime.device import keep_freed_memory

    keep_freed_memory()
    for method in config.method:
        plugins.resolved("attribution", method)
    choose_attacks(config.attack or None, config.suite, config.norm or "linf")  # finds typos early
    say = partial(note, quiet=config.quiet)
    subjects = load_subjects(page.model, config)
    plans = [plan_from(config, subject, say=say) for subject in subjects]
    evaluations = []
    for model, estimated, out in zip(page.model, estimate(subjects, plans, config, given), outs, strict=True):
        subject = estimated.subject
        note("\n".join([model, *subject.notes]), config.quiet)
        describe_methods(subject, estimated.plan.methods, config.quiet)
        if not page.overwrite:
            subject.certificates, message = certificates_at(out, subject)
            note(message, config.quiet or not message)
        budget, text = estimated.begin(given)
        note(text, config.quiet)
        unfinished = unfinished_beside(out)
        kept: list[Path] = []

        def save(result: "Evaluation", path: Path = unfinished, kept: list[Path] = kept) -> None:
            (without_arrays(result) if page.redact_images else result).save(path)
            kept.append(path)

        try:
            evaluation = evaluate_subject(
                subject, estimated.plan, progress=None if config.quiet else progress(False), budget=budget, pace=estimated.pace,
                say=say, done=save, options=config, command=command_line(),
            )  # fmt: skip
        except BaseException:
            note(f"what was measured is kept in {unfinished}", config.quiet or not kept)
            raise
        if not page.overwrite:
            keep_earlier(out, evaluation, images=not page.redact_images, names=not config.redact_names)
        save(evaluation, out)
        note_if_replaced(model, evaluation)
        unfinished.unlink()
        note(f"\n{summarise(evaluation)}\n\n{out}\n\n", config.quiet)
        check_answered(subject.model)
        del evaluation.examples  # to keep the examples of only one model in memory
        evaluations.append(evaluation)
    return evaluations
