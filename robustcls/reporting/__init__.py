"""The robustness report: one HTML file, a pure function of evaluations. Importing this loads nothing heavy."""

from robustcls.reporting.render import render as render
from robustcls.reporting.render import report as report

__all__ = ["render", "report"]
