"""Whether images are normalised twice before they reach the first layer of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, passive_rows
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "normalised_twice"
SHOWN = (0.0, 0.5, 1.0)  # uniform images, which stay uniform under any preprocessing, including resizing
BENT = 1e-3  # how far grey may lie from the middle between black and white, relative to their difference
CHANGED = 1.05  # factor on the contrast beyond which there was more than the known normalisation
# For a module without a known normalisation: the contrast is about 1 after one normalisation, and about 1 / std, or four, after
# two.
SPREAD, RISE = (2.5, 30.0), 6.0


@check(30)
def normalised_twice(engine: Engine, outcome: Outcome) -> Check:
    """A warning if a network behind a normalisation, or the user's own module, seems to normalise a second time."""
    x = engine.x[passive_rows(engine)].to(engine.device)
    return look_at(engine.model, x, engine.subject.surrogate.model if engine.subject.surrogate else None)


def look_at(model: nn.Module, x: Tensor, surrogate: nn.Module | None = None) -> Check:
    """Examine the first layers of frozen models; return the check of the one that warns, if any. x: some images N,C,H,W."""
    own = _look_at(model, x)
    if surrogate is None:
        return own
    other = _look_at(surrogate, x)
    other.message = f"of the surrogate: {other.message}"
    if "warn" in (own.status, other.status):
        worse = own if own.status == "warn" else other
        if own.status == other.status:
            worse.message += f"; {other.message}"
        return worse
    if own.status != other.status:  # one passes, and the other could not be examined
        passed, untold = (own, other) if own.status == "pass" else (other, own)
        passed.message += f"; {untold.message}"
        return passed
    return own


def _look_at(model: nn.Module, x: Tensor) -> Check:
    """Measure the contrast that the first layer with weights sees.

    For a network behind mean and std, the value is a multiple of the contrast after these, which should be 1; otherwise it is
    in standard deviations of x.
    """
    classifier = next((module for module in model.modules() if isinstance(module, Classifier)), None)
    inside = classifier.net if classifier is not None else model
    try:
        seen = _first_input(model, inside, x)
    except (RuntimeError, InputError):  # a ScriptModule takes no hooks; some models divide by the spread of an image
        seen = None
    if seen is None:
        return Check(NAME, "not_run", None, None, "the input of the first layer could not be observed")
    rise = seen[2] - seen[0]
    bent = (seen[1] - (seen[0] + seen[2]) / 2).abs()
    if not (seen.isfinite().all() and (rise != 0).all() and (bent <= BENT * rise.abs()).all()):
        return Check(
            NAME, "not_run", None, None, "the preprocessing before the first layer is more than a normalisation"
        )
    if classifier is not None and classifier.normalises:
        times = (rise.abs() * classifier.std.flatten().float()).mean().item()
        twice = max(times, 1 / times) > CHANGED
        what = f"behind (pixels - mean) / std, the first layer sees {times:.2g} times the contrast"
        advice = (
            "the network normalises again: leave out --mean and --std, or the network's own normalisation, unless it was "
            "trained this way"
        )
        return Check(NAME, "warn" if twice else "pass", times, CHANGED, f"{what}; {advice}" if twice else what)
    rises = rise.abs().mean().item()
    spread = rises * x.std((0, 2, 3)).mean().item()
    twice = rises > RISE and SPREAD[0] < spread < SPREAD[1]
    what = f"the first layer sees the pixels' contrast times {rises:.2g}, {spread:.2g} of its units on these images"
    advice = "two normalisations give this much: remove one from the module, unless it was trained this way"
    return Check(NAME, "warn" if twice else "pass", spread, SPREAD[0], f"{what}; {advice}" if twice else what)


def _first_input(model: nn.Module, inside: nn.Module, x: Tensor) -> Tensor | None:
    """Return the input of the first layer with weights for black, grey and white images, at the centre: 3,channels."""
    found: list[Tensor] = []

    def look(_module: nn.Module, inputs: Sequence[object]) -> None:
        if not found and inputs and isinstance(inputs[0], Tensor):
            found.append(inputs[0].detach().float())

    handles = [module.register_forward_pre_hook(look) for module in inside.modules() if _is_layer(module)]
    try:
        with torch.no_grad():
            greys = torch.tensor(SHOWN, device=x.device, dtype=x.dtype).view(-1, 1, 1, 1)
            model(greys.expand(-1, *x.shape[1:]).clone())
    finally:
        for handle in handles:
            handle.remove()
    if not found or len(found[0]) != len(SHOWN):
        return None
    seen = found[0]
    if seen.ndim == 4 and x.shape[1] in (1, seen.shape[1]):  # a grey image may be shown as three equal channels
        return seen[:, :, seen.shape[2] // 2, seen.shape[3] // 2]
    if seen.ndim == 2 and seen.shape[1] % x.shape[1] == 0:  # flattened
        return seen.view(len(seen), x.shape[1], -1)[:, :, seen.shape[1] // x.shape[1] // 2]
    return None


def _is_layer(module: nn.Module) -> bool:
    """Whether the module is a trained layer: it has parameters or batch statistics, and no submodules."""
    if any(True for _ in module.children()) or _is_normaliser(module):
        return False
    return any(True for _ in module.parameters()) or isinstance(module, nn.modules.batchnorm._NormBase)


def _is_normaliser(module: nn.Module) -> bool:
    return any(hasattr(module, mean) and hasattr(module, std) for mean, std in (("mean", "std"), ("mu", "sigma")))
