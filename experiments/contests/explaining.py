"""The explain suite: images per second of each attribution method, beside captum called image by image."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum.attr as captum
import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor, nn

from experiments.contests.turns import TurnError, hand_over, take_turn
from robustcls.attribution._baselines import baseline_of
from robustcls.attribution._preparation import prepared
from robustcls.attribution.gradcam import layer_and_grid
from robustcls.attribution.superpixels import segmented
from robustcls.bench.explaining import FIRST, our_maps, time_method
from robustcls.bench.subject import load_subject
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.core.gradients import frozen
from robustcls.data.images import Images
from robustcls.runtime.memory import peak_memory_mb

ROUNDS = 1
CAPTUM, OURS = "captum, image by image", "robustcls"


def captum_map(model: nn.Module, method: str, x: Tensor, y: Tensor) -> Tensor:
    """Return captum's map of one image 1,C,H,W, with the default options of our method of the same name."""
    black, leaf = torch.zeros_like(x), x.clone().requires_grad_()
    three = torch.cat([baseline_of(x, kind) for kind in ("black", "mean", "blur")])
    options = plugins.resolved("attribution", method)
    if "segments" in options:
        options["feature_mask"] = segmented(x[0], options.pop("segments"))[None, None]
    if method == "saliency":
        return captum.Saliency(model).attribute(leaf, y)
    if method == "input_x_gradient":
        return captum.InputXGradient(model).attribute(leaf, y)
    if method == "integrated_gradients":
        return captum.IntegratedGradients(model).attribute(x, black, y, n_steps=options["steps"])
    if method == "smoothgrad":
        tunnel, samples = captum.NoiseTunnel(captum.Saliency(model)), options["samples"]
        return tunnel.attribute(leaf, nt_samples=samples, stdevs=options["noise"], target=y, abs=False).abs()
    if method == "gradient_shap":
        return captum.GradientShap(model).attribute(x, three, n_samples=options["samples"], target=y)
    if method == "occlusion":
        side = min(x.shape[2:]) // 8
        window, stride = (x.shape[1], side, side), (x.shape[1], side // 2, side // 2)
        return captum.Occlusion(model).attribute(x, window, stride, black, y)[:, 0]
    if method == "feature_ablation":
        return captum.FeatureAblation(model).attribute(x, black, y, feature_mask=options["feature_mask"])[:, 0]
    if method in ("lime", "kernel_shap"):
        maker = captum.KernelShap(model) if method == "kernel_shap" else captum.Lime(model, SkLearnRidge(alpha=1.0))
        return maker.attribute(x, black, y, feature_mask=options["feature_mask"], n_samples=options["samples"])[:, 0]
    layer, _ = layer_and_grid(model, x)
    if method == "gradcam":
        maps = captum.LayerGradCam(model, model.get_submodule(layer)).attribute(x, y, relu_attributions=True)
        return nn.functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    if method == "deeplift":
        return captum.DeepLift(model).attribute(x, black, y)
    if method == "deeplift_shap":
        return captum.DeepLiftShap(model).attribute(x, three, y)
    if method == "guided_gradcam":
        guided = captum.GuidedGradCam(model, model.get_submodule(layer))
        return guided.attribute(leaf, y, interpolate_mode="bilinear")
    raise InputError(f"no counterpart of {method} in captum is known to the bench")


def captum_loop(model: nn.Module, method: str, x: Tensor, y: Tensor, seed: int) -> Tensor:
    maps = []
    with frozen(model):
        if method in ("deeplift", "deeplift_shap", "guided_gradcam"):
            # Without the prepared copy captum's maps would be wrong.
            model = prepared(model, x, method, rescale=method != "guided_gradcam")
        for i in range(len(x)):
            torch.manual_seed(seed)
            np.random.seed(seed)
            maps.append(captum_map(model, method, x[i : i + 1], y[i : i + 1]).detach())
    return torch.cat(maps)


CONTESTANTS: dict[str, Callable[..., Tensor]] = {CAPTUM: captum_loop, OURS: our_maps}


def take_explain_turn(images: Images, task: dict[str, Any]) -> dict[str, Any]:
    """Run one contestant: each method for a few seconds; write its first maps to task["answer"]."""
    model = load_subject(task, images).model
    x, y = images.to(task["device"]).batch()
    make, seed = CONTESTANTS[task["contestant"]], task["seed"]
    rates = {method: time_method(method, model, x, y, seed, make) for method in task["methods"]}
    first = {method: make(model, method, x[:FIRST], y[:FIRST], seed).cpu().float() for method in task["methods"]}
    with atomic_write(task["answer"], "TMPDIR") as part:
        torch.save(first, part)
    return {"rates": rates, "peak_memory_mb": peak_memory_mb(), "threads": torch.get_num_threads()}


def run_explain_suite(
    images: Images, task: dict[str, Any], home: Path, rounds: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run rounds in which both explain the same images; return the median ratios, and how far the maps differ."""
    file, count = hand_over(images, home / "explain.images"), rounds or ROUNDS
    methods = list(task["methods"])
    task = task | {"images": file, "answer": str(home / "maps.pt"), "suite": "explain"}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    maps: dict[str, dict[str, Tensor]] = {}
    for number in range(count):
        for name, results in turns.items():
            say(f"  round {number + 1}/{count}: {name}")
            try:
                results.append(take_turn(home, task | {"contestant": name}))
            except TurnError as failure:
                raise InputError(f"bench contestant {name!r} failed: {failure}") from None
            maps[name] = torch.load(task["answer"], weights_only=True)
    rows = {}
    for method in methods:
        speeds = {
            name: [turn["rates"][method]["images"] / turn["rates"][method]["seconds"] for turn in results]
            for name, results in turns.items()
        }
        one, other = maps[OURS][method], maps[CAPTUM][method]
        rows[method] = {
            "images_per_second": statistics.median(speeds[OURS]),
            "captum_images_per_second": statistics.median(speeds[CAPTUM]),
            "ratio": statistics.median(a / b for a, b in zip(speeds[OURS], speeds[CAPTUM], strict=True)),
            "largest_difference": ((one - other).abs().max() / other.abs().max()).item(),
        }
    return {"n": len(images), "model": task["model_name"], "rows": rows, "rounds": turns}
