"""`robustcls gate`."""

from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import click

from robustcls.cli.console import mark, wrap
from robustcls.cli.options import GroupedCommand, PolicyOptions, options
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable

if TYPE_CHECKING:
    from robustcls.results.policy import Criterion, Verdict

STATUS = {"FAIL": 1, "INCONCLUSIVE": 3}


@click.command("gate", cls=GroupedCommand)
@click.argument("file", metavar="FILE.json")
@click.option("--junit", metavar="FILE.xml", help="Also write the verdict as JUnit XML.")
@options(PolicyOptions, "asked")
def command(file: str, asked: PolicyOptions, junit: str | None) -> int:
    """Check an evaluation against accuracy thresholds: exit with 0 if it passes, with 1 if it fails. Meant for CI.

    The evaluation passes if every 95% interval lies entirely at or above its threshold, and fails if one lies entirely below.
    It is inconclusive (exit status 3) if an interval contains its threshold, if a self-check failed, or if a threshold is
    about something that was not measured. If a self-check warned, or none was run, PASS becomes WARN (exit status 0).

    \b
      robustcls gate evaluation.json --min-robust 0.40 --min-clean 0.75
      robustcls gate evaluation.json --policy policy.toml --junit gate.xml
      robustcls gate certified.json --min-certified 0.30
    """
    from robustcls.results.comparison import outdated_suites
    from robustcls.results.contradictions import with_check
    from robustcls.results.policy import judge
    from robustcls.results.records import Evaluation
    from robustcls.results.thresholds import PASS, THRESHOLDS

    if asked == PolicyOptions():
        raise click.UsageError(
            "a gate needs a threshold: give --min-robust, --min-clean or --min-certified, or --policy"
        )
    policy = asked.load_policy()
    if not policy.thresholds:
        raise InputError(f"{asked.policy} sets no threshold: give one, such as min_robust = 0.40")
    if junit:
        check_writable(junit, "--junit", [one for one in (file, asked.policy) if one])
    evaluation = with_check(Evaluation.load(file))
    verdict = judge(evaluation, policy)
    shown = [one for one in verdict.criteria if one.name in THRESHOLDS or one.status != PASS]
    click.echo("\n".join([verdict.status, *map(_line, shown)]))
    if outdated := outdated_suites(evaluation):
        click.echo(wrap(f"note: {outdated}"))
    if junit:
        with atomic_write(junit, "--junit") as part:
            part.write_text(junit_xml(Path(file).name, verdict), encoding="utf-8", errors="backslashreplace")
    return STATUS.get(verdict.status, 0)


def _line(criterion: "Criterion") -> str:
    """Return one criterion with its mark, wrapped; further lines are indented to the text."""
    text = f"{criterion.asked}: {criterion.measured}" if criterion.measured else criterion.reason
    start = "  " if criterion.status == "NOT JUDGED" else f"  {mark(criterion.status)}"
    return wrap(start + text, indent=len(start))


def junit_xml(name: str, verdict: "Verdict") -> str:
    """Return JUnit XML: a test case per criterion, self-checks included, with a failure where it fails or is inconclusive."""
    bad = sum(one.status in STATUS for one in verdict.criteria)
    skipped = sum(one.status == "NOT JUDGED" for one in verdict.criteria)
    cases = "".join(_case(name, one) for one in verdict.criteria)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="robustcls gate" tests="{len(verdict.criteria)}" failures="{bad}" errors="0"'
        f' skipped="{skipped}">\n{cases}</testsuite>\n'
    )


def _case(file: str, criterion: "Criterion") -> str:
    message = _attribute(criterion.reason)
    inside = ""
    if criterion.status in STATUS:
        inside = f"<failure type={_attribute(criterion.status)} message={message}/>"
    elif criterion.status == "NOT JUDGED":
        inside = f"<skipped message={message}/>"
    title = _attribute(f"{criterion.name}: {criterion.asked}")
    return f"<testcase classname={_attribute(file)} name={title}>{inside}</testcase>\n"


def _attribute(text: str) -> str:
    """Return the text as a quoted XML attribute, without the characters that XML 1.0 cannot represent."""
    legal = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff" else " " for c in text)
    return quoteattr(legal)
