"""Images that a decision-based attack may begin from: drawn from all samples, so that the batch decides nothing."""

from torch import Tensor

from robustcls.core.subset import in_turn

OTHERS = 100


def others_of(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """At most OTHERS of the images x (N,C,H,W), of the classes y (N) in turn, by the numbers that name them (N)."""
    order = index.cpu().argsort(stable=True)
    return x[order[in_turn(y.cpu()[order])[:OTHERS]].to(x.device)]
