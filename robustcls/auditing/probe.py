"""Linear probes: one linear classifier per fold on the features of a pretrained network (Alain and Bengio, arXiv:1610.01644).

The network has not seen the labels, so it cannot have memorised wrong ones, and its features are computed only once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustcls.auditing.confident import find_label_errors
from robustcls.auditing.config import AuditConfig
from robustcls.auditing.folds import OutOfFold
from robustcls.core.classifier import device_of, dtype_of
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.gradients import frozen
from robustcls.core.logits import logits_of
from robustcls.core.progress import Bar
from robustcls.core.subset import stratified_order
from robustcls.data import origin, parse
from robustcls.data.images import Images
from robustcls.data.spec import folder_of
from robustcls.models.checkpoint import is_checkpoint
from robustcls.models.heads import head_of
from robustcls.models.loading import build_model, read_model
from robustcls.runtime.device import exact_fp32, resolve_device
from robustcls.training.config import PYTHON

AT_ONCE = 64  # images in a forward pass
# Weights of the squared norm, beside the mean log loss; the one for an audit is chosen among them.
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
COMPARED = 10_000  # images on which they are compared
ITERATIONS = 300
CONSTANT = 1e-5  # a feature with a smaller standard deviation, as a share of its mean, is rounding noise


class Features(nn.Module):
    """The input of a classifier's head: pixels in [0, 1], N,C,H,W, to features N,D in fp32.

    The classifier is not changed. Grey images are repeated to `channels` channels.
    """

    def __init__(self, model: nn.Module, head: str, channels: int = -1) -> None:
        """head: name of the layer. channels: -1 for those of the images."""
        super().__init__()
        self.model, self.head, self.channels = model, head, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features, the output of the head and that of the classifier."""
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.model.get_submodule(self.head).register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0], output))
        )
        try:  # a copy of the images, because some models write to their input
            output = logits_of(self.model(x.expand(-1, self.channels, -1, -1).to(dtype_of(self.model), copy=True)))
        finally:
            hook.remove()
        if len(seen) != 1:
            raise InputError(f"its last layer, {self.head}, is called {len(seen)} times per pass")
        return seen[0][0].flatten(1).float(), seen[0][1], output


class Probe(nn.Module):
    """A linear layer on standardised features: pixels in [0, 1], N,C,H,W, to logits N,K."""

    def __init__(self, features: Features, center: Tensor, scale: Tensor, head: nn.Linear) -> None:
        super().__init__()
        self.features, self.head = features, head
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.features(x) - self.center) / self.scale)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A loaded network. sha256: of its file, "" without one. notes: assumptions about it."""

    features: Features
    sha256: str
    notes: list[str]


def probe_folds(
    images: Images, fold: Tensor, config: AuditConfig, features: Features, *, progress: bool = False
) -> tuple[OutOfFold, float]:
    """Fit a linear classifier per fold on the images outside the fold, and predict the images inside; twice.

    The second time, label issues of the first are left out of the images that the classifiers are fitted to, as in
    iterative noisy cross-validation (Chen et al. 2019, arXiv:1905.05040). The labels of a fold have no other influence on its
    second classifier.

    fold: N, the result of `divide`. Also returns the penalty: the one of PENALTIES with the smallest log loss on the first
    fold, measured on at most COMPARED images. Raises InputError for features that are not finite.
    """
    x = _all_features(features, images, progress)
    if not x.isfinite().all():
        count = int((~x.isfinite().all(1)).sum())
        raise InputError(
            f"`features={config.features}` gives values that are not finite for {count} of {len(x)} images"
        )
    center, scale = x.double().mean(0), x.double().std(0)
    scale = scale.where(scale > CONSTANT * center.abs(), 1.0).clamp(min=1e-6)
    center, scale = center.float(), scale.float()
    x = (x - center) / scale
    rows = stratified_order(images.labels, config.seed)[:COMPARED]
    losses: dict[float, float] = {}
    classes = len(images.classes)
    with Bar(len(PENALTIES) + 2 * config.folds, "linear classifiers", "fit", show=progress) as bar:
        for penalty in PENALTIES:
            losses[penalty] = _loss(x[rows], images.labels[rows], fold[rows] == 0, classes, penalty)
            bar.advance()
        best = min(losses, key=lambda penalty: losses[penalty])

        def fit(kept: Tensor) -> tuple[Tensor, list[nn.Linear]]:
            probabilities, heads = torch.zeros(len(images), classes), []
            for number in range(config.folds):
                inside = fold == number
                rows = ~inside & kept
                heads.append(_fit(x[rows], images.labels[rows], classes, best))
                with torch.no_grad():
                    probabilities[inside] = heads[-1](x[inside]).softmax(1)
                bar.advance()
            return probabilities, heads

        first, _ = fit(torch.ones_like(fold, dtype=torch.bool))
        probabilities, heads = fit(credible(first, images.labels))
    device = resolve_device(config.device)
    models = [Probe(features, center, scale, head).to(device).eval() for head in heads]
    return OutOfFold(probabilities, fold, models, []), best


def credible(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return which images are not label errors by out-of-fold probabilities N,K: bool N.

    All images of a class are returned if more than half of them are suspicious.
    """
    issue = find_label_errors(probabilities, labels).issue
    classes = probabilities.shape[1]
    doubtful = 2 * labels[issue].bincount(minlength=classes) > labels.bincount(minlength=classes)
    return ~issue | doubtful[labels]


def load_pretrained(config: AuditConfig, images: Images, *, given: bool = False) -> Pretrained:
    """Load the network config.features in eval mode. Raises InputError.

    given: the images come from Python, so that it is not known whether the network was trained on them.
    """
    spec, data = config.features or "", config.data or "digits"
    with as_input_error(f"`features={spec}`"):
        source = read_model(spec)
        trained = source.meta.get("config")
        if not source.single:
            raise InputError("gives the output of several networks, which have no single head: give one of them")
        name = str(trained.get("data") or "digits") if isinstance(trained, Mapping) else PYTHON
        if not given and _place(name) == _place(data):
            raise InputError(
                f"`features={spec}` was trained on the labels of {data}, and may have memorised wrong ones: give a network "
                "that was trained on other data"
            )
        is_weights = isinstance(source.content, Mapping) and not is_checkpoint(source.content)
        arch = config.arch if is_weights else None
        shape = tuple(images.pixels.shape[1:])
        loaded = build_model(source, arch=arch, classes=(), input_size=shape)
        model = loaded.model.to(resolve_device(config.device)).eval()
    return Pretrained(
        _features_of(model, images.batch(torch.arange(min(2, len(images))))[0], spec), loaded.sha256, loaded.notes
    )


def _place(spec: str) -> str:
    """Return the name of a data set, or the real path of a folder; the same for all options and spellings."""
    name = parse(origin(spec)).name
    folder = folder_of(origin(spec)) if name == "folder" else None
    return name if folder is None else str(folder[0].resolve())


def _features_of(model: nn.Module, x: Tensor, spec: str) -> Features:
    """Find the head of a model, and check on two images that its output is that of the model and does not vary."""
    try:
        name, _ = head_of(model)
    except InputError as error:
        raise InputError(f"`features={spec}`: {error}") from None
    x = x.to(device_of(model))
    features, reason = Features(model, name), ""
    for channels in (-1, 3) if x.shape[1] == 1 else (-1,):
        features = Features(model, name, channels)
        try:
            with torch.no_grad(), frozen(model), as_input_error("failed"):
                first, head, output = features.both(x)
                again = features(x)
            break
        except InputError as error:
            reason = reason or str(error)
    else:
        size = "x".join(map(str, x.shape[1:]))
        raise InputError(f"`features={spec}` cannot take images of {size}: {reason}")
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise InputError(
            f"`features={spec}` gives other features for the same image each time: give one that is not random"
        )
    if head.numel() != output.numel():
        raise InputError(
            f"`features={spec}` gives {output[0].numel()} values, and its last linear layer, {name}, {head[0].numel()}: give a "
            "network that ends with a head"
        )
    return features


def _all_features(features: Features, images: Images, progress: bool) -> Tensor:
    """Return the features of all images, float32 N,D on the CPU."""
    parts, device = [], device_of(features)
    with Bar(len(images), "features", "image", show=progress) as bar, torch.no_grad(), exact_fp32():
        for rows in torch.arange(len(images)).split(AT_ONCE):
            parts.append(features(images.batch(rows)[0].to(device)).cpu())
            bar.advance(len(rows))
    return torch.cat(parts)


def _loss(x: Tensor, y: Tensor, held_out: Tensor, classes: int, penalty: float) -> float:
    """Return the mean log loss on the images held out, N, of a classifier that is fitted on the others."""
    head = _fit(x[~held_out], y[~held_out], classes, penalty)
    with torch.no_grad():
        return nn.functional.cross_entropy(head(x[held_out]), y[held_out]).item()


def _fit(x: Tensor, y: Tensor, classes: int, penalty: float) -> nn.Linear:
    """Return the multinomial logistic regression of labels N on features N,D: mean log loss + penalty/2 * squared norm."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1 / (penalty * len(x)), max_iter=ITERATIONS).fit(x.numpy(), y.numpy())
    head = nn.Linear(x.shape[1], classes)
    weight, bias = torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)
    if len(weight) == 1:  # of two classes, scikit-learn keeps the logit of the second
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1e4)  # a class without an image outside the fold is never predicted
        known = torch.tensor(fitted.classes_)
        head.weight[known], head.bias[known] = weight.float(), bias.float()
    return head
