"""Helpers for the tests of every attack plug-in: cheap options, norms, threat models, images."""

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
EVERY_EPS = EPS | {"l0": 8}  # only few attacks support l0


def cheap(name: str, **given) -> str:
    """Return the spec of the attack with cheap options, as far as it has them."""
    options = plugins.resolved("attack", name)
    slow = traits(name).minimum_norm and name != "hopskipjump"  # with fewer steps these find no example
    wanted = CHEAP | ({"steps": 25} if slow else {}) | given
    chosen = {key: value for key, value in wanted.items() if key in options}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in chosen.items())})"


def traits(name: str) -> Traits:
    return traits_of(plugins.load("attack", name))


def refuses_norm(refusal: InputError, norm: str) -> bool:
    """Whether the error message says that the attack does not support this norm."""
    messages = f"not {norm}: judge it with `norm=", f"does not know {norm}: take `attacks="
    return any(message in str(refusal) for message in messages)


@cache
def norms_of(name: str) -> tuple[str, ...]:
    """Return the norms that the attack does not refuse."""
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
    """Return a ball in this norm, or in the first norm of the attack; the whole box for unrestricted attacks."""
    if traits(name).unrestricted:
        return ThreatModel("linf", 1)
    norm = norm or norms_of(name)[0]
    return ThreatModel(norm, EVERY_EPS[norm] * share)


def images(n: int = 6, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(1))


def right_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)
