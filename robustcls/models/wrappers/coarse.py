"""A model that classifies into groups of classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustcls.core.class_tree import ClassTree, read_tree
from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper, chains_in, logits_of


def coarse(model: nn.Module, *, tree: str, depth: int = 1, classes: Sequence[str] = ()) -> nn.Module:
    """A model that classifies into groups of its classes, so that every attack looks for an error between groups.

    The logit of a group is the log-sum-exp of the logits of its classes, so that its softmax is the sum of their probabilities
    (as in Deng et al. 2014 and Bertinetto et al., arXiv:1912.09393). An attack on the model itself stops at any wrong class,
    and most of these are in the label's own group. Accuracy by group under such an attack is therefore overestimated; with this
    wrapper, the attack targets the groups themselves. In Python, `.group_of[labels]` converts labels to groups.

    Args:
        model: a module that returns logits N,K.
        tree: a TOML file: tables of groups, down to lists of class names, each class once.
        depth: edges between the root of the tree and the groups. A class that is closer to the root belongs to the group that
            contains it directly.
        classes: names of the outputs, for a model without class names.

    Raises:
        InputError: for a tree that omits a class, names one twice, or names an unknown one; for a tree with a single group; and
            for a depth at which there are no groups.

    Example:
        >>> model = robustcls.coarse(robustcls.load("ckpt.pt"), tree="tree.toml")
        >>> robustcls.evaluate(model, images, model.group_of[labels], "linf:8/255")
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"coarse({model!r:.40}) is a wrapper around nothing: give a torch.nn.Module")
    if depth < 1:
        raise InputError(f"coarse(depth={depth}): groups lie 1 edge or more below the root: give depth=1 or more")
    names = list(classes or getattr(model, "classes", ()))
    if not names:
        raise InputError("coarse needs the names of the model's classes: give them as `classes`, in the outputs' order")
    class_tree = read_tree(tree, names, flag="coarse(..., tree=...)")
    if depth > (deepest := class_tree.height - 1):
        raise InputError(f"coarse(depth={depth}): {tree} has groups down to depth {deepest}: give 1 to {deepest}")
    return Coarse(model, class_tree, depth)


class Coarse(Wrapper):
    """The log-sum-exp of the logits of each group."""

    group_of: Tensor  # int64 K: index of each class's group

    def __init__(self, model: nn.Module, tree: ClassTree, depth: int) -> None:
        deeper = f", depth={depth}" if depth != 1 else ""
        super().__init__(model, f"coarse({{}}, tree={tree.source}{deeper})")
        self.groups, group_of = tree.groups_at(depth)
        if len(self.groups) < 2:
            raise InputError(
                f"{tree.source} has one group at depth {depth}, {self.groups[0]!r}: a classifier needs two"
            )
        self.register_buffer("group_of", torch.tensor(group_of), persistent=False)
        self.fine, self.classes = tree.classes, self.groups

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of(self.model(x))
        if logits.ndim != 2 or logits.shape[1] != len(self.fine):
            raise InputError(
                f"the model gives {tuple(logits.shape)}, the tree has {len(self.fine)} classes: name each output"
            )
        members = [logits[:, self.group_of == number] for number in range(len(self.groups))]
        return torch.stack([one.logsumexp(1) for one in members], 1)


def groups_in(model: nn.Module) -> dict[str, int] | None:
    """Return, for each class of the innermost model, the output of the whole model that is its group.

    None where no wrapper groups classes. Raises InputError where the models of an ensemble group them differently.
    """
    found = []
    for chain in chains_in(model):
        inside = [one for one in reversed(chain) if isinstance(one, Coarse)]
        if inside:
            places = list(range(len(inside[0].fine)))
            for one in inside:
                places = [int(one.group_of[place]) for place in places]
            found.append(dict(zip(inside[0].fine, places, strict=True)))
    if any(one != found[0] for one in found):
        raise InputError("the models side by side group their classes in different ways: give them one tree")
    return found[0] if found else None
