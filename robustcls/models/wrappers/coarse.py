"""A model of groups of classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustcls.core.class_tree import ClassTree, read_tree
from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper, chains_in, logits_of


def coarse(model: nn.Module, *, tree: str, depth: int = 1, classes: Sequence[str] = ()) -> nn.Module:
    """A model as one of groups of its classes, so that every attack looks for a mistake between groups.

    A group's logit is the log-sum-exp of those of its classes, whose softmax is the sum of their probabilities (as in Deng et
    al. 2014 and Bertinetto et al., arXiv:1912.09393). An attack on the model itself is content with any wrong class, and most
    of these are in the label's own group: accuracy by group under such an attack is flattered, and this wrapper says what an
    attack leaves that means it. In Python, labels become those of groups by `.group_of[labels]`.

    Args:
        model: gives logits N,K.
        tree: a TOML file: tables of groups, down to lists of class names, each class once.
        depth: edges between the root of the tree and the groups; a class that hangs higher up is in the group it hangs in.
        classes: names of the outputs, of a model that has none.

    Raises:
        InputError: for a tree that forgets a class, names one twice or one that is unknown, and one of a single group; for a
            depth at which there are no more groups.

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
    found = read_tree(tree, names, flag="coarse(..., tree=...)")
    if depth > (deepest := found.height - 1):
        raise InputError(f"coarse(depth={depth}): {tree} has groups down to depth {deepest}: give 1 to {deepest}")
    return Coarse(model, found, depth)


class Coarse(Wrapper):
    """Log-sum-exp of the logits of each group."""

    group_of: Tensor  # K int64: the number of the group of each class

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
    """Of each class of the model inside all wrappers, the output of the whole that is its group; None where nothing groups.

    Raises InputError where models side by side group them otherwise.
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
