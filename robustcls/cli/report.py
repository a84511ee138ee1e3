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

STATED = ("intended_use", "license", "positive", "tree")  # what is stated of a model, whether measured or only rendered
RENDERING = {"quiet", "redact_names", *STATED}  # options that also hold where evaluations are only rendered


@dataclass(kw_only=True)
class PageOptions(PolicyOptions):
    """What is reported, and which files are written; how a model is measured is in ReportConfig."""

    GROUP: ClassVar[str] = "Output"

    model: tuple[str, ...] = option(
        (), f"Attacked and explained first; repeatable. {MODEL_HELP}", metavar="M", group="Model"
    )
    title: str | None = option(None, "Title of the report.", group="Report")
    index: str | None = option(None, "List all evaluations below a folder on one page.", metavar="DIR", group="Report")
    out: str | None = option(
        None, "The report.  [default: report.html beside the first model or file]", metavar="FILE.html"
    )
    assets: str | None = option(
        None, "Put the gallery's images there, lossless, instead of into the page.", metavar="DIR"
    )
    model_card: bool = option(False, "Also write MODEL_CARD.md beside each model or file.")
    redact_images: bool = option(False, "Leave images and attribution maps out of every file that is written.")
    overwrite: bool = option(False, OVERWRITE_HELP)


@click.command("report", cls=GroupedCommand)
@click.argument("files", nargs=-1, metavar="[FILE.json]...")
@config_option
@options(PageOptions, "page")
@options(ReportConfig)
def command(flags: dict, page: PageOptions, config_file: str | None, files: tuple[str, ...]) -> int:
    """Write the HTML report of evaluations, or of models after attacking and explaining them.

    With FILE.json alone it only renders. Two or more are shown side by side, compared where they hold the same samples.
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
            for what, without in redacted:
                warn_of_what_stays(files, loaded, what, without)
            _write(evaluations, places, page, policy)
    if page.index:
        from robustcls.reporting.index import index

        click.echo(index(page.index, policy=policy, title=None if specs else page.title))
    for one in filter(contradicted, evaluations):
        note(f"warning: {one.model.name}: {broken_proof(one)}", quiet=False)
    return INCONCLUSIVE if any(map(contradicted, evaluations)) else 0


def configure(flags: Mapping[str, Any], config_file: str | None) -> ReportConfig:
    """defaults < profile < configuration file < flags. Raises InputError."""
    return resolve(ReportConfig, *layered(read_toml(config_file) if config_file else {}, flags))


@dataclass
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


def choose_places(page: PageOptions, files: Sequence[str]) -> Places:
    """Beside the model or the file; of a model from code beside the page. Raises InputError where one cannot be written."""
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
    """A file beside each model or evaluation, in `home` for a model from code; of those that share a folder, each its own,
    such as evaluation-pgd.json.
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
    """Attacks and explains the models and writes their evaluations to outs, once every model is found good.

    given: options that the user named, whose counts win over the budget of the profile.
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
    choose_attacks(config.attack or None, config.suite, config.norm or "linf")  # a typo is found at once
    say = partial(note, quiet=config.quiet)
    subjects = load_subjects(page.model, config)
    plans = [plan_from(config, subject, say=say) for subject in subjects]
    evaluations = []
    for model, its, out in zip(page.model, estimate(subjects, plans, config, given), outs, strict=True):
        subject = its.subject
        note("\n".join([model, *subject.notes]), config.quiet)
        describe_methods(subject, its.plan.methods, config.quiet)
        if not page.overwrite:
            subject.certificates, said = certificates_at(out, subject)
            note(said, config.quiet or not said)
        budget, text = its.begin(given)
        note(text, config.quiet)
        unfinished = unfinished_beside(out)
        kept: list[Path] = []

        def save(found: "Evaluation", path: Path = unfinished, kept: list[Path] = kept) -> None:
            (without_arrays(found) if page.redact_images else found).save(path)
            kept.append(path)

        try:
            found = evaluate_subject(
                subject, its.plan, progress=None if config.quiet else progress(False), budget=budget, pace=its.pace,
                say=say, done=save, options=config, command=command_line(),
            )  # fmt: skip
        except BaseException:
            note(f"what was measured is kept in {unfinished}", config.quiet or not kept)
            raise
        if not page.overwrite:
            keep_earlier(out, found, images=not page.redact_images, names=not config.redact_names)
        save(found, out)
        note_if_replaced(model, found)
        unfinished.unlink()
        note(f"\n{summarise(found)}\n\n{out}\n\n", config.quiet)
        check_answered(subject.model)
        del found.examples  # in memory of one model at a time
        evaluations.append(found)
    return evaluations
