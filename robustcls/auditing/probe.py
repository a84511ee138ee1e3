"""Linear probes: one linear classifier per fold on the features of a pretrained network (Alain and Bengio, arXiv:1610.01644).

The network has not seen the labels, so it cannot have memorised wrong ones, and its features are computed only once.
"""

import copy
from collections.abc import Mapping

import numpy
import torch
from torch import Tensor, nn

from robustcls.auditing.config import AuditConfig
from robustcls.auditing.folds import AT_ONCE, OutOfFold
from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.gradients import frozen
from robustcls.core.progress import Bar
from robustcls.core.subset import stratified_order
from robustcls.data import origin
from robustcls.data.images import Images
from robustcls.models.heads import head_of
from robustcls.models.loading import build_model, read_model
from robustcls.runtime.device import resolve_device
from robustcls.runtime.predict import predict

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # values of scikit-learn's C that are compared
COMPARED = 10_000  # images on which they are compared
ITERATIONS = 300


class Features(nn.Module):
    """A network without its head: pixels in [0, 1], N,C,H,W, to features N,D. Grey images are repeated for colour networks."""

    def __init__(self, net: nn.Module, channels: int | None = None) -> None:
        """net: it returns the features, in any shape. channels: those that it takes; None for those of the images."""
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, self.channels or -1, -1, -1)).flatten(1)


class Probe(nn.Module):
    """A linear layer on features: pixels in [0, 1], N,C,H,W, to logits N,K."""

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def probe_folds(images: Images, fold: Tensor, config: AuditConfig, *, progress: bool = False) -> OutOfFold:
    """Fit a linear classifier per fold on the images outside the fold, and predict the images inside.

    fold: N, the result of `divide`. The penalty with the smallest log loss on the first fold, of at most COMPARED images, is
    used for all folds. Raises InputError if config.features is no network that ends in a head, or was trained on this data.
    """
    features = load_features(config, images)
    x = _all_features(features, images, progress)
    center, scale = x.mean(0), x.std(0).clamp(min=1e-6)
    x = (x - center) / scale
    rows = stratified_order(images.labels, config.seed)[:COMPARED]
    losses, probabilities, models = [], torch.zeros(len(images), len(images.classes)), []
    with Bar(len(PENALTIES) + config.folds, "linear classifiers", "fit", show=progress) as bar:
        for c in PENALTIES:
            losses.append(_loss(x[rows], images.labels[rows], fold[rows] == 0, len(images.classes), c))
            bar.advance()
        best = PENALTIES[int(numpy.argmin(losses))]
        for number in range(config.folds):
            inside = fold == number
            head = _fit(x[~inside], images.labels[~inside], len(images.classes), best)
            with torch.no_grad():
                probabilities[inside] = head(x[inside]).softmax(1)
                head.weight.div_(scale)
                head.bias.sub_(head.weight @ center)
            models.append(Probe(features, head.to(resolve_device(config.device))).eval())
            bar.advance()
    return OutOfFold(probabilities, fold, models, [])


def load_features(config: AuditConfig, images: Images) -> Features:
    """Return the network of config.features without its head, in eval mode. Raises InputError."""
    spec, shape = config.features or "", tuple(images.pixels.shape[1:])
    source = read_model(spec)
    trained = source.meta.get("config")
    if config.data and isinstance(trained, Mapping) and origin(str(trained.get("data"))) == origin(config.data):
        raise InputError(
            f"`features={spec}` was trained on the labels of {config.data}, and may have memorised wrong ones: give a network "
            "that was trained on other data"
        )
    model = build_model(source, arch=None, classes=(), input_size=shape).model
    model = copy.deepcopy(model).to(resolve_device(config.device)).eval()
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    wanted = model.input_size[0] if isinstance(model, Classifier) else first.in_channels if first else shape[0]
    if shape[0] not in (1, wanted):
        raise InputError(f"`features={spec}` takes images of {wanted} channels, and these have {shape[0]}")
    return _without_head(model, wanted, images.batch(torch.arange(1))[0], spec)


def _without_head(model: nn.Module, channels: int, x: Tensor, spec: str) -> Features:
    """Remove the head of a model, in place, and return what computes its inputs."""
    name, head = head_of(model)
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    x = x.to(device_of(model))
    refused = f"`features={spec}` cannot take images of {'x'.join(map(str, x.shape[1:]))}"
    with torch.no_grad(), frozen(model), as_input_error(refused):
        Features(model, channels)(x)
        hook.remove()
        model.set_submodule(name, nn.Identity())
        features = Features(model, channels)
        computed = features(x)
    if len(seen) != 1 or seen[0].shape != computed.shape or not torch.allclose(seen[0], computed, atol=1e-5):
        raise InputError(f"`features={spec}` does not end with its last layer, {name}: give a network that does")
    return features


def _all_features(features: Features, images: Images, progress: bool) -> Tensor:
    """Return the features of all images, float32 N,D on the CPU."""
    parts = []
    with Bar(len(images), "features", "image", show=progress) as bar:
        for rows in torch.arange(len(images)).split(AT_ONCE):
            parts.append(predict(features, images.batch(rows)[0], AT_ONCE))
            bar.advance(len(rows))
    return torch.cat(parts)


def _loss(x: Tensor, y: Tensor, held_out: Tensor, classes: int, c: float) -> float:
    """Return the mean log loss on the images held out, N, of a classifier that is fitted on the others."""
    head = _fit(x[~held_out], y[~held_out], classes, c)
    with torch.no_grad():
        return nn.functional.cross_entropy(head(x[held_out]), y[held_out]).item()


def _fit(x: Tensor, y: Tensor, classes: int, c: float) -> nn.Linear:
    """Return the multinomial logistic regression of labels N on features N,D. c: inverse weight of the squared norm."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=c, max_iter=ITERATIONS).fit(x.numpy(), y.numpy())
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
