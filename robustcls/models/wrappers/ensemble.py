"""An ensemble: several models as one."""

from collections.abc import Sequence

from torch import Tensor, nn

from robustcls.core.class_map import normal, own_names
from robustcls.core.classifier import input_size_of
from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper, logits_of, mean_probabilities

SEVERAL = True  # this wrapper takes any number of models


def ensemble(*models: nn.Module) -> nn.Module:
    """Combine models into one whose probabilities are the mean of theirs, so that an attack sees the whole ensemble.

    Its logits are the logarithms of the mean probabilities: the log-sum-exp over the models of their log-softmax, minus log M.
    An attack on one member need not fool the mean, and independent attacks on the members make an ensemble look more robust
    than it is (Tramer et al., arXiv:2002.08347); here the gradient is that of the mean. The outputs of members with the same
    classes in another order are reordered like those of the first member with class names. Outputs without names are used in
    their own order.

    Args:
        models: two or more modules that return logits N,K of the same classes for the same images.

    Raises:
        InputError: for fewer than two models, or models with different classes or image sizes.

    Example:
        >>> robustcls.evaluate(robustcls.ensemble(first, second), images, labels, "linf:8/255", suite="fast")
    """
    for one in models:
        if not isinstance(one, nn.Module):
            raise InputError(f"ensemble({one!r:.40}) is a wrapper around nothing: give models, torch.nn.Module")
    if len(models) < 2:
        raise InputError(f"ensemble of {len(models)}: a mean needs two models or more, such as ensemble(a.pt, b.pt)")
    return Ensemble(models)


class Ensemble(Wrapper):
    """The mean of the members' probabilities, as logits."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        names = [str(getattr(one, "title", type(one).__name__)) for one in models]
        super().__init__(models[0], "")
        self.others = nn.ModuleList(models[1:])
        self.title = f"ensemble({', '.join(names)})"
        self.arch = " + ".join(str(getattr(one, "arch", "") or type(one).__name__) for one in models)
        self.differentiable = all(getattr(one, "differentiable", True) for one in models)
        self.training = any(one.training for one in models)
        self.said: list[str] = []
        # For each member, its output for each class; None where the classes are in order.
        self.orders: list[list[int] | None] = [None] * len(models)
        self._check_sizes()
        self._order()

    @property
    def members(self) -> list[nn.Module]:
        return [self.model, *self.others]

    def forward(self, x: Tensor) -> Tensor:
        logs: list[Tensor] = []
        for number, (member, order) in enumerate(zip(self.members, self.orders, strict=True), 1):
            logits = logits_of(member(x.clone()))  # a copy: some models modify their input in place
            if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                shape = tuple(getattr(logits, "shape", ()))
                raise InputError(f"model {number} of the ensemble gives {shape}: each must give logits N,K")
            if logs and logits.shape[1] != logs[0].shape[1]:
                raise InputError(
                    f"model {number} of the ensemble gives {logits.shape[1]} outputs, the first {logs[0].shape[1]}: "
                    "all must have the same classes"
                )
            logs.append(logits.log_softmax(1) if order is None else logits[:, order].log_softmax(1))
        return mean_probabilities(logs)

    def _check_sizes(self) -> None:
        sizes = {size: number for number, one in enumerate(self.members, 1) if (size := _size_of(one))}
        if len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise InputError(
                f"ensemble: model {first} takes images of {one}, model {second} of {other}: all must take the same"
            )

    def _order(self) -> None:
        """Match the outputs of all members by their class names. Raises InputError where they have different classes."""
        known = [_classes_of(one) for one in self.members]
        lead = next((place for place, classes in enumerate(known) if classes), None)
        if lead is None:
            return
        self.classes = known[lead]
        names = list(map(normal, known[lead]))
        for place, classes in enumerate(known):
            member_names, member = list(map(normal, classes)), f"model {place + 1}"
            if not member_names:
                self.said.append(f"{member} names no classes: its outputs are taken in the order of model {lead + 1}")
            elif member_names == names:
                continue
            elif sorted(member_names) != sorted(names) or len(set(names)) < len(names):
                odd = next((f"knows {one!r}" for one in classes if normal(one) not in names), "")
                odd = odd or next(
                    (f"lacks {one!r}" for one in known[lead] if normal(one) not in member_names), "has a name twice"
                )
                raise InputError(f"ensemble: {member} {odd}, unlike model {lead + 1}: all must have the same classes")
            else:
                self.orders[place] = [member_names.index(name) for name in names]
                self.said.append(
                    f"{member} has the classes in another order: its outputs are put in that of model {lead + 1}"
                )


def _size_of(model: nn.Module) -> tuple[int, ...] | None:
    size = input_size_of(model)
    return tuple(size) if size is not None else None


def _classes_of(model: nn.Module) -> tuple[str, ...]:
    classes = getattr(model, "classes", ())
    named = isinstance(classes, (tuple, list)) and all(isinstance(name, str) for name in classes)
    return own_names(classes) if named else ()
