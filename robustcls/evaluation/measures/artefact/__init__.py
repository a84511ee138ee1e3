"""What runs: an exported file beside the model that it was made of, attacked alike."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import FEWEST, Measure, Part


@dataclass
class Options:
    artefact_n: int = option(
        300, "Samples at most on which an exported file and its original are attacked side by side; 0: none."
    )
    original: str | None = option(
        None,
        "The model that the exported file was made of.  [default: another --model whose file it names]",
        metavar="M",
    )


MEASURE = Measure(
    text="the exported file beside its original",
    order=60,
    parts={"artefact": Part(35, "What runs", "the model is not an exported file: `robustcls export` writes one")},
    options=Options,
    count="artefact_n",
    fewest=FEWEST,
    profiles={"quick": {"artefact_n": 100}, "full": {"artefact_n": 1000}},
)
