"""An exported file compared with the model that it was exported from, under the same attacks."""

from dataclasses import dataclass
from typing import Any

from robustcls.core.config import option
from robustcls.core.measures import BYTES, FEWEST, MILLISECONDS, POINTS, Measure, Part, Ranged, Threshold

HOW = "`robustcls report --model CHECKPOINT --model DIR` measures it; `robustcls export` writes DIR"


@dataclass
class Options:
    artefact_n: int = option(
        300, "Largest number of samples on which an exported file is compared with its original under attack; 0: none."
    )
    original: str | None = option(
        None,
        "The model that the file was exported from.  [default: another --model whose file it names]",
        metavar="M",
    )


def _drop(difference: float | None, ci95: list[float], samples: Any) -> tuple[Ranged, int] | None:
    """Return the drop in percentage points with its interval, whose ends swap because the sign changes."""
    if difference is None:
        return None
    return Ranged(-100 * difference, (-100 * ci95[1], -100 * ci95[0])), samples.total


def _p99(found: Any) -> tuple[float, int] | None:
    one = next((one for one in found.latency if one.batch == 1), None)
    return None if one is None else (one.p99, one.runs)


MEASURE = Measure(
    text="comparison of the exported file with its original",
    order=60,
    parts={"artefact": Part(35, "What runs", "the model is not an exported file: robustcls export writes one")},
    thresholds={
        "max_artefact_drop": Threshold(
            "drop of clean accuracy from the original to the exported file",
            lambda found: _drop(found.clean_difference, found.clean_ci95, found.clean),
            unit=POINTS,
            how=HOW,
        ),
        "max_artefact_robust_drop": Threshold(
            "drop of robust accuracy from the original to the exported file",
            lambda found: _drop(found.difference, found.ci95, found.union),
            under_attack=True,
            unit=POINTS,
            how=HOW,
        ),
        "min_agreement": Threshold(
            "agreement of predictions between the exported file and its original",
            lambda found: found.agreement and (found.agreement, found.agreement.total),
            how=HOW,
        ),
        "max_bytes": Threshold(
            "size of the exported file", lambda found: (found.bytes, 1), unit=BYTES, counted="", how=HOW
        ),
        "max_p99_ms": Threshold(
            "99th percentile of the exported file's time for an image",
            _p99,
            unit=MILLISECONDS,
            counted="runs on one thread",
            how=HOW,
        ),
    },
    compared=True,
    options=Options,
    count="artefact_n",
    fewest=FEWEST,
    profiles={"quick": {"artefact_n": 100}, "full": {"artefact_n": 1000}},
)
