"""Whether a detector was attacked together with the model."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(75)
def joint_attack(engine: Engine, outcome: Outcome) -> Check | None:
    """A warning if no attack takes the detector into account (Carlini and Wagner 2017, arXiv:1705.07263).

    None without a detector.
    """
    if engine.subject.detector is None:
        return None
    joint = [attack.text for attack in outcome.attacks if attack.takes("detector")]
    if joint:
        return Check("joint_attack", "pass", None, None, f"{' and '.join(joint)} attacked model and detector jointly")
    return Check(
        "joint_attack", "warn", None, None,
        "no attack took the detector into account, so robust accuracy may be overstated: add apgd_reject",
    )  # fmt: skip
