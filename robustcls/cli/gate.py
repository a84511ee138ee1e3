"""`robustcls gate`."""

from pathlib import Path
from xml.sax.saxutils import quoteattr

import click

from robustcls.core.files import check_writable, replacing
from robustcls.core.policy import FAIL, INCONCLUSIVE, Policy, Verdict, judge
from robustcls.core.records import Evaluation

STATUS = {FAIL: 1, INCONCLUSIVE: 3}


@click.command("gate")
@click.argument("file", metavar="FILE.json")
@click.option("--min-robust", type=float, metavar="SHARE", help="Least robust accuracy, such as 0.40.")
@click.option("--min-clean", type=float, metavar="SHARE", help="Least clean accuracy, such as 0.75.")
@click.option("--junit", metavar="FILE.xml", help="Also write the verdict as JUnit XML.")
def command(file: str, min_robust: float | None, min_clean: float | None, junit: str | None) -> int:
    """Exit with 0 where an evaluation passes its thresholds, with 1 where it fails, for CI.

    It passes when the whole 95% interval lies at or above each threshold and fails when one lies below. An interval around
    its threshold, or a failed self-check, is inconclusive: exit status 3.

    \b
      robustcls gate evaluation.json --min-robust 0.40 --min-clean 0.75
      robustcls gate evaluation.json --min-robust 0.40 --junit gate.xml
    """
    if min_robust is None and min_clean is None:
        raise click.UsageError("a gate needs a threshold: give --min-robust or --min-clean")
    if junit:
        check_writable(junit)
    verdict = judge(Evaluation.load(file), Policy(min_clean=min_clean, min_robust=min_robust))
    click.echo("\n".join([verdict.status, *(f"  {reason}" for reason in verdict.reasons)]))
    if junit:
        with replacing(junit) as part:
            part.write_text(junit_xml(Path(file).name, verdict), encoding="utf-8")
    return STATUS.get(verdict.status, 0)


def junit_xml(name: str, verdict: Verdict) -> str:
    """One test case; a failure element unless it passed."""
    bad = verdict.status in STATUS
    reasons = quoteattr("; ".join(verdict.reasons))
    failure = f"<failure type={quoteattr(verdict.status)} message={reasons}/>" if bad else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="robustcls gate" tests="1" failures="{int(bad)}" errors="0">'
        f'<testcase classname="robustcls" name={quoteattr(name)}>{failure}</testcase></testsuite>\n'
    )
