"""The options of `robustcls certify`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.evaluation.config import SubjectOptions, samples_option


@dataclass(kw_only=True)
class CertifyConfig(SubjectOptions):
    GROUP: ClassVar[str] = "Certificate"

    method: Literal["smoothing", "bounds"] = option(
        "smoothing",
        "smoothing: of the vote of any model under Gaussian noise, with confidence. bounds: of a small plain network itself, "
        "for certain.",
    )
    sigma: float | None = option(
        None,
        "Of smoothing: standard deviation of the noise, on [0, 1] pixels, such as 0.25.  [default: that of smoothed(M, "
        "sigma=...), else of the checkpoint's training noise]",
        metavar="S",
    )
    # None: not given, for with bounds they are refused.
    draws: int | None = option(
        None, "Of smoothing: noisy copies of each image that are counted; 10000 for a publication.  [default: 1000]"
    )
    select_draws: int | None = option(
        None, "Of smoothing: noisy copies before these, which choose the class that is counted.  [default: 100]"
    )
    alpha: float | None = option(None, "Of smoothing: the probability that a certificate is false.  [default: 0.001]")
    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None,
        "Norm of the perturbations that are ruled out; smoothing: l2 alone.  [default: smoothing l2, bounds that of the "
        "checkpoint, else of the data]",
    )
    eps: float | str | None = None  # no option: `eps_grid` has the radii
    twin: str | None = None  # no option: what is behind a service is not certified
    eps_grid: str | None = option(
        None,
        "Radii of the curve, such as 0,0.25,0.5; bounds are computed at each.  [default: smoothing 0, and 1, 2 and 3 times "
        "sigma; bounds 0, and 1/4, 1/2 and all of the checkpoint's radius]",
        metavar="EPS,EPS",
    )
    n: int | str = samples_option("200")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32",
        "Which model is certified: as it is, or its copy in low precision, which is another one: certify what is served.",
        group="Runtime",
    )

    def __post_init__(self) -> None:
        if self.eps is not None:
            raise InputError(
                "certificates have radii of their own: give them as `eps_grid`, such as `eps_grid=0,0.25,0.5`"
            )
        if self.method == "smoothing" and self.norm not in (None, "l2"):
            raise InputError(
                f"`norm={self.norm}` is not certified by Gaussian noise, which proves l2 radii alone: give `norm=l2`, or, of a "
                "small plain network, `method=bounds`"
            )
        if self.method == "bounds" and self.sigma is not None:
            raise InputError(
                "`sigma` is of smoothing, and bounds have no noise: leave it out, or give `method=smoothing`"
            )
        if self.method == "bounds" and self.smoothing_options:
            name = next(iter(self.smoothing_options))
            raise InputError(f"`{name}` is of smoothing, and bounds have no draws: leave it out, or leave out `method`")

    @property
    def smoothing_options(self) -> dict[str, Any]:
        """What was given of the draws."""
        given = {"draws": self.draws, "select_draws": self.select_draws, "alpha": self.alpha}
        return {name: value for name, value in given.items() if value is not None}
