"""Whether the model and the images are on one device."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(50)
def device(engine: Engine, outcome: Outcome) -> Check:
    """A warning if the model is on several devices, or the images on another device than the model: both cost time."""
    model, images = engine.subject.model, engine.subject.images_were_on or engine.device
    places = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers())})
    if len(places) > 1:
        advice = "move the whole model to one, with model.to(device)"
        return Check("device", "warn", float(len(places)), 1.0, f"the model is on {' and '.join(places)}: {advice}")
    if places and images != engine.device:
        message = f"the images were on {images}, the model is on {places[0]}: the evaluation moved them"
        return Check("device", "warn", 2.0, 1.0, message)
    return Check("device", "pass", 1.0, 1.0, f"model and images are on {images}")
