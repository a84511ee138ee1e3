"""Measures of how faithful attribution maps are to the model: completeness, insertion, deletion, infidelity, sensitivity.

Images are float N,C,H,W in [0, 1], and target has one class per image. The model may be on any device and in any mode, and is
not changed. Every measure returns N float64 values on the CPU and raises InputError for shapes that do not fit.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from robustcls.attribution._batches import images_per_pass, placed
from robustcls.core.classifier import check_images, check_logits
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen


def completeness_gap(model: nn.Module, x: Tensor, target: Tensor, maps: Tensor, baseline: Tensor) -> Tensor:
    """|sum(maps) - change| / |change|, where change = logit(x) - logit(baseline) of the target: 0.01 is 1%.

    maps: N,C,H,W or N,H,W of a method that is complete (Sundararajan et al. 2017, arXiv:1703.01365). baseline: shaped like x,
    the baselines of the method. inf if the logit does not change and the map does not add up to 0; nan if both are 0.
    """
    _check("completeness_gap", x, target, maps, "baseline", baseline)
    with torch.no_grad(), frozen(model):
        change = _target_logits(model, x, target) - _target_logits(model, baseline, target)
    total = maps.detach().to("cpu", torch.float64).flatten(1).sum(1)
    return (total - change).abs() / change.abs()


def insertion(
    model: nn.Module, x: Tensor, target: Tensor, order_maps: Tensor, *, blank: Tensor, steps: int = 16
) -> Tensor:
    """Area under the target's softmax probability as the image's pixels are inserted into `blank`, largest map values first.

    RISE's insertion (Petsiuk et al. 2018, arXiv:1806.07421): N values in [0, 1], higher is better. order_maps: N,H,W,
    signed; ties are broken in reading order. blank: images like x. steps: number of equal parts, up to half a pixel, in
    which pixels are inserted; the trapezoid rule uses steps + 1 points. nan if a map is not finite. Raises InputError if
    steps is below 1.
    """
    return _area("insertion", model, x, target, order_maps, blank, steps)


def deletion(
    model: nn.Module, x: Tensor, target: Tensor, order_maps: Tensor, *, blank: Tensor, steps: int = 16
) -> Tensor:
    """Area under the target's softmax probability as the image's pixels are replaced by `blank`, largest map values first.

    RISE's deletion (Petsiuk et al. 2018, arXiv:1806.07421): N values in [0, 1], lower is better. The rest is as for
    `insertion`.
    """
    return _area("deletion", model, x, target, order_maps, blank, steps)


def infidelity(
    model: nn.Module, x: Tensor, target: Tensor, maps: Tensor, *, blank: Tensor, draws: int = 32, seed: int = 0
) -> Tensor:
    """Return the share of the logit's decreases that the map does not explain, when random halves of the image are blanked.

    The mean square of b * sum(map over what is blanked) - fall, over the mean square of the falls, with the scale b that
    fits each image best (Yeh et al. 2019, arXiv:1901.09392, with blanking as the perturbation): N values in [0, 1], 0 is
    best. Because of the scale, maps in different units can be compared. maps: N,H,W, signed. blank: images like x. Squares of
    an eighth of the shorter side are blanked, each with probability one half, the same ones in every image. nan if the logit
    never changes. Raises InputError for fewer than two draws.
    """
    _check("infidelity", x, target, maps, "blank", blank)
    _check_flat("infidelity", maps)
    if draws < 2:
        raise InputError(f"infidelity: draws={draws} is too small to fit a scale: give 2 or more, 32 is usual")
    masks = _random_squares(x, draws, seed)
    claimed = maps.detach().to("cpu", torch.float64).flatten(1) @ masks.double().flatten(1).T  # N, draws
    with torch.no_grad(), frozen(model):
        before = _target_logits(model, x, target)
        falls = torch.stack([before - _target_logits(model, torch.where(m, blank, x), target) for m in masks], 1)
    scale = (claimed * falls).sum(1) / claimed.square().sum(1).clamp_min(1e-300)
    scale = scale.clamp_min(0)  # a map with reversed signs explains nothing
    return (scale[:, None] * claimed - falls).square().sum(1) / falls.square().sum(1)


def _random_squares(x: Tensor, draws: int, seed: int) -> Tensor:
    """Return random masks of squares: bool, draws,H,W, on x's device."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // 8)
    shape = (draws, -(-height // side), -(-width // side))
    squares = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    whole = squares.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return whole[:, :height, :width].to(x.device)


def sensitivity_max(
    explain_maps: Callable[[Tensor], Tensor],
    x: Tensor,
    maps: Tensor | None = None,
    *,
    draws: int = 3,
    radius: float = 0.02,
    seed: int = 0,
) -> Tensor:
    """The largest relative change of the map under uniform noise (Yeh et al. 2019, arXiv:1901.09392): N values, 0 or more.

    The largest over the draws of ||explain(x + noise) - explain(x)|| / ||explain(x)||, in l2, with noise of up to +-radius
    per pixel and the images clamped to [0, 1]. explain_maps: images to maps of any shape, with the targets of x fixed inside.
    maps: those of x, where they are at hand. nan where a map of x is all zero. Raises InputError for less than one draw or
    a radius that is not positive.
    """
    check_images(x)
    if draws < 1:
        raise InputError(f"sensitivity_max: draws={draws} is not positive: give 1 or more")
    if not radius > 0:
        raise InputError(f"sensitivity_max: radius={radius} is not positive: give the largest noise in pixel units")
    generator = torch.Generator().manual_seed(seed)
    maps = _flat(explain_maps(x) if maps is None else maps, x)
    size = maps.norm(dim=1)
    largest = torch.zeros(len(x), dtype=torch.float64)
    # captum's version is not used: it repeats the images `draws` times in one batch, so targets in explain_maps would not fit.
    for _ in range(draws):
        noise = radius * (2 * torch.rand(x.shape, generator=generator) - 1)
        moved = _flat(explain_maps((x + noise.to(x)).clamp(0, 1)), x)
        if moved.shape != maps.shape:
            raise InputError(
                f"sensitivity_max: maps of {maps.shape[1]} values for x and of {moved.shape[1]} for x with noise: "
                "give maps that explain_maps made"
            )
        largest = torch.maximum(largest, (moved - maps).norm(dim=1) / size)
    return largest.where(size > 0, torch.nan)


def _area(
    name: str, model: nn.Module, x: Tensor, target: Tensor, order_maps: Tensor, blank: Tensor, steps: int
) -> Tensor:
    _check_flat(name, order_maps)
    _check(name, x, target, order_maps, "blank", blank)
    if steps < 1:
        raise InputError(f"{name}: steps={steps} is not positive: give 1 or more, 16 is usual")
    start, end = (blank, x) if name == "insertion" else (x, blank)
    pixels = order_maps[0].numel()
    counts = [round(step * pixels / steps) for step in range(steps + 1)]
    # Sorting, and inverting the order, gives the rank at which each pixel is replaced.
    turns = order_maps.detach().flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)
    turns = turns.view(len(x), 1, *x.shape[2:])
    curves = []
    with torch.no_grad(), frozen(model):
        for before, after, turn, classes in _parts(images_per_pass(x), start, end, turns, target):
            before, after = placed(model, before), placed(model, after)
            turn, classes = turn.to(before.device), classes.to(before.device, torch.int64)
            points = []
            for count in counts:
                logits = model(torch.where(turn < count, after, before))
                check_logits(logits, classes)
                points.append(logits.double().softmax(1).gather(1, classes[:, None]))
            curves.append(torch.cat(points, 1).cpu())
    # If the number of pixels is not a multiple of the steps, the points are not evenly spaced.
    shares = torch.tensor(counts, dtype=torch.float64) / pixels
    areas = torch.trapezoid(torch.cat(curves), shares, dim=1)
    return areas.where(order_maps.isfinite().flatten(1).all(1).cpu(), torch.nan)


def _parts(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _target_logits(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return the target's logit for each image, N float64 on the CPU. Raises InputError for a class that the model lacks."""
    values = []
    for part, classes in _parts(images_per_pass(images), images, target[: len(images)]):
        logits = model(placed(model, part))
        check_logits(logits, target)
        values.append(logits.double().cpu().gather(1, classes.cpu().to(torch.int64)[:, None])[:, 0])
    return torch.cat(values)


def _check(name: str, x: Tensor, target: Tensor, maps: Tensor, what: str, images: Tensor) -> None:
    """Raises InputError unless these fit: images, their classes and maps, and more images, called `what`, like x."""
    if maps.shape not in (x.shape, (len(x), *x.shape[2:])):
        raise InputError(
            f"{name}: maps {tuple(maps.shape)} for images {tuple(x.shape)}: give N,C,H,W or N,H,W of the images' size"
        )
    check_images(x, target)
    if images.shape != x.shape:
        raise InputError(f"{what} is {tuple(images.shape)}, the images {tuple(x.shape)}: give {what} images like x")
    check_images(images)


def _check_flat(name: str, maps: Tensor) -> None:
    if maps.ndim != 3:
        raise InputError(f"{name} takes maps N,H,W, not {tuple(maps.shape)}: give collapse(maps)")


def _flat(maps: Tensor, x: Tensor) -> Tensor:
    if len(maps) != len(x):
        raise InputError(f"sensitivity_max: {len(maps)} maps for {len(x)} images: give one per image")
    return maps.detach().to("cpu", torch.float64).flatten(1)
