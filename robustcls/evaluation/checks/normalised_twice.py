"""What the first layer of a network is shown of an image's pixels, and whether they were normalised twice."""

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
SHOWN = (0.0, 0.5, 1.0)  # grey images: what lies before the first layer, resizing included, leaves them even
BENT = 1e-3  # of the rise from black to white, by which grey may lie beside the middle
CHANGED = 1.05  # times as much contrast behind a normalisation as that alone gives
# Of a module by itself: contrast after one normalisation is about 1, after two about 1 / std, or four.
SPREAD, RISE = (2.5, 30.0), 6.0


@check(30)
def normalised_twice(engine: Engine, outcome: Outcome) -> Check:
    """Whether a network behind a normalisation, or a module of the user's own, normalises once more: it warns."""
    x = engine.x[passive_rows(engine)].to(engine.device)
    return look_at(engine.model, x, engine.subject.surrogate.model if engine.subject.surrogate else None)


def look_at(model: nn.Module, x: Tensor, surrogate: nn.Module | None = None) -> Check:
    """At the first layers of frozen models; the check is of whichever warns. x: some images N,C,H,W on their device."""
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
    if own.status != other.status:  # one cannot be told, and the other passes
        passed, untold = (own, other) if own.status == "pass" else (other, own)
        passed.message += f"; {untold.message}"
        return passed
    return own


def _look_at(model: nn.Module, x: Tensor) -> Check:
    """Measured is the contrast that the first layer with weights sees: of a network behind mean and std as a multiple of
    theirs, which should be 1; else in standard deviations of x.
    """
    classifier = next((module for module in model.modules() if isinstance(module, Classifier)), None)
    inside = classifier.net if classifier is not None else model
    try:
        seen = _first_input(model, inside, x)
    except (
        RuntimeError,
        InputError,
    ):  # hooks on a ScriptModule; images of one value through what divides by their spread
        seen = None
    if seen is None:
        return Check(NAME, "not_run", None, None, "what the first layer sees cannot be told")
    rise = seen[2] - seen[0]
    bent = (seen[1] - (seen[0] + seen[2]) / 2).abs()
    if not (seen.isfinite().all() and (rise != 0).all() and (bent <= BENT * rise.abs()).all()):
        return Check(NAME, "not_run", None, None, "what lies before the first layer is more than a normalisation")
    if classifier is not None and classifier.normalises:
        times = (rise.abs() * classifier.std.flatten().float()).mean().item()
        twice = max(times, 1 / times) > CHANGED
        what = f"behind (pixels - mean) / std, the first layer sees {times:.2g} times the contrast"
        advice = (
            "the network normalises once more: leave out --mean and --std or its own normalisation, unless it was "
            "trained so"
        )
        return Check(NAME, "warn" if twice else "pass", times, CHANGED, f"{what}; {advice}" if twice else what)
    rises = rise.abs().mean().item()
    spread = rises * x.std((0, 2, 3)).mean().item()
    twice = rises > RISE and SPREAD[0] < spread < SPREAD[1]
    what = f"the first layer sees the pixels' contrast times {rises:.2g}, {spread:.2g} of its units on these images"
    advice = "so much comes of two normalisations: take one out of the module, unless it was trained so"
    return Check(NAME, "warn" if twice else "pass", spread, SPREAD[0], f"{what}; {advice}" if twice else what)


def _first_input(model: nn.Module, inside: nn.Module, x: Tensor) -> Tensor | None:
    """What the first layer with weights is given of black, grey and white images: 3, channels; in the images' middle."""
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
    """Whether it is the first of what training made: it has parameters, or statistics of batches, and nothing inside."""
    if any(True for _ in module.children()) or _is_normaliser(module):
        return False
    return any(True for _ in module.parameters()) or isinstance(module, nn.modules.batchnorm._NormBase)


def _is_normaliser(module: nn.Module) -> bool:
    return any(hasattr(module, mean) and hasattr(module, std) for mean, std in (("mean", "std"), ("mu", "sigma")))
