"""Accuracy under common corruptions."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy
from robustcls.results.fields import Count, Share


@dataclass
class Corruption:
    """Accuracy under one common corruption."""

    name: str
    severity: Annotated[int, Field(strict=True, ge=1, le=5)]
    accuracy: Accuracy


@dataclass
class Corruptions:
    """Accuracy under common corruptions (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

    rule: str  # which samples, in words
    source: str  # of the corrupted images: made here by the published definitions, or published files
    n: Count
    clean: Accuracy  # on the same samples; with published files, on samples of the evaluation
    results: list[Corruption]
    mean: Share | None = None  # over all corruptions and severities
    note: str = ""  # differences from the published corruptions


RECORD = Corruptions
