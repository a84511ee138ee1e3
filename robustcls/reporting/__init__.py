"""The robustness report: one HTML file that depends only on the evaluations. Importing this package loads no heavy modules."""

from robustcls.reporting.render import render as render
from robustcls.reporting.render import report as report

__all__ = ["render", "report"]
