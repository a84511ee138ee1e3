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
        "smoothing: certify the majority vote of any model under Gaussian noise, with statistical confidence. bounds: certify "
        "a small plain network itself, with certainty.",
    )
    sigma: float | None = option(
        None,
        "Smoothing: standard deviation of the noise, on [0, 1] pixels, such as 0.25.  [default: that of smoothed(M, "
        "sigma=...), else that of the checkpoint's training noise]",
        metavar="S",
    )
    # The default is None, so that options of smoothing that are given together with bounds can be refused.
    draws: int | None = option(
        None, "Smoothing: number of noisy copies of each image to count; 10000 for a publication.  [default: 1000]"
    )
    select_draws: int | None = option(
        None, "Smoothing: number of noisy copies drawn first, to choose the class to count.  [default: 100]"
    )
    alpha: float | None = option(None, "Smoothing: probability that a certificate is false.  [default: 0.001]")
    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None,
        "Norm of the perturbations that are ruled out; smoothing: only l2.  [default: smoothing l2; bounds that of the "
        "checkpoint, else that of the data]",
    )
    eps: float | str | None = None  # not an option here: `eps_grid` gives the radii
    twin: str | None = None  # not an option here: a model behind a service cannot be certified
    eps_grid: str | None = option(
        None,
        "Radii of the curve, such as 0,0.25,0.5; bounds are computed at each.  [default: smoothing 0, and 1, 2 and 3 times "
        "sigma; bounds 0, and 1/4, 1/2 and all of the checkpoint's radius]",
        metavar="EPS,EPS",
    )
    n: int | str = samples_option("200")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32",
        "Certify the model as it is (fp32) or its copy in low precision, which is a different model: certify the one that "
        "you serve.",
        group="Runtime",
    )

    def __post_init__(self) -> None:
        if self.eps is not None:
            raise InputError(
                "certificates take radii, not one `eps`: give them as `eps_grid`, such as `eps_grid=0,0.25,0.5`"
            )
        if self.method == "smoothing" and self.norm not in (None, "l2"):
            raise InputError(
                f"`norm={self.norm}` is not certified by Gaussian noise, which only proves l2 radii: give `norm=l2`, or, for a "
                "small plain network, `method=bounds`"
            )
        if self.method == "bounds" and self.sigma is not None:
            raise InputError(
                "`sigma` is for smoothing, and bounds have no noise: leave it out, or give `method=smoothing`"
            )
        if self.method == "bounds" and self.smoothing_options:
            name = next(iter(self.smoothing_options))
            raise InputError(
                f"`{name}` is for smoothing, and bounds have no draws: leave it out, or leave out `method`"
            )

    @property
    def smoothing_options(self) -> dict[str, Any]:
        """The options about the draws that were given, by name."""
        given = {"draws": self.draws, "select_draws": self.select_draws, "alpha": self.alpha}
        return {name: value for name, value in given.items() if value is not None}
