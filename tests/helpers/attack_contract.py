"""What the tests of every attack plug-in share: cheap options, norms, balls, images."""

from functools import cache

import torch
from torch import Tensor, nn

import robustcls
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import Traits, traits_of
from tests.helpers.eval_models import make_net
from tests.helpers.seeds import seeded

ATTACKS = [name for name in plugins.names("attack") if not traits_of(plugins.load("attack", name)).training_only]
CHEAP = {
    "steps": 5, "restarts": 2, "targets": 3, "radii": 6, "queries": 200, "draws": 20,
    "binary_search_steps": 4, "initial_const": 1.0, "initial_evaluations": 10, "size": 0.6,
}  # fmt: skip
EPS = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
EVERY_EPS = EPS | {"l0": 8}  # l0, which few attacks know


def cheap(name: str, **given) -> str:
    """The attack with few steps, whatever of them it takes."""
    options = plugins.resolved("attack", name)
    slow = traits(name).minimum_norm and name != "hopskipjump"  # with few steps they find nothing
    wanted = CHEAP | ({"steps": 25} if slow else {}) | given
    chosen = {key: value for key, value in wanted.items() if key in options}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in chosen.items())})"


def traits(name: str) -> Traits:
    return traits_of(plugins.load("attack", name))


def refuses_norm(refusal: InputError, norm: str) -> bool:
    """Whether an attack said in words that it is not for this norm."""
    return any(
        said in str(refusal) for said in (f"not {norm}: judge it with `norm=", f"does not know {norm}: take `attacks=")
    )


@cache
def norms_of(name: str) -> tuple[str, ...]:
    """The norms that the attack does not refuse."""
    if traits(name).unrestricted:
        return ("linf",)
    taken = []
    for norm in EVERY_EPS:
        try:
            robustcls.attack(
                make_net(), images(1), torch.zeros(1).long(), ThreatModel(norm, EVERY_EPS[norm]), cheap(name)
            )
        except InputError as refusal:
            if not refuses_norm(refusal, norm):
                raise
        else:
            taken.append(norm)
    return tuple(taken)


def threat_of(name: str, norm: str = "", share: float = 1) -> ThreatModel:
    """A ball of this norm, or of the attack's first; the whole box for what leaves every ball."""
    if traits(name).unrestricted:
        return ThreatModel("linf", 1)
    norm = norm or norms_of(name)[0]
    return ThreatModel(norm, EVERY_EPS[norm] * share)


def images(n: int = 6, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(1))


def right_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)
