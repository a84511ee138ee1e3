"""No step reads a value from a tensor, for which a CUDA host would have to wait; tested on the CPU, for all combinations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.combinations import every_combination

READERS = {"_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique2", "_unique2"}


class Reading(AssertionError):
    pass


class NoReading(TorchDispatchMode):
    """Raises an error where values of a tensor are read on the host, or decide the shape of a result."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bool, torch.uint8)
            for leaf in tree_leaves(args[1:2])
            if isinstance(args[1], (list, tuple))
        )
        if name in READERS or masks:
            raise Reading(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(), lambda x: bool((x > 0).any()), lambda x: x[x > 0], lambda x: x.nonzero(),
        lambda x: torch.equal(x, x), lambda x: float(x.sum()), lambda x: x.masked_fill_(x > 0, 1)[x > 0],
    ],
)  # fmt: skip
def test_reading_is_seen(read):
    with pytest.raises(Reading), NoReading():
        read(torch.ones(3))


@every_combination
@pytest.mark.parametrize("augment", ["crop_flip(pad=1)+cutout(size=2)+random_erasing", "cutmix"])
def test_nothing_inside_a_step_reads_a_tensor(objective, step, augment, make_run):
    if augment == "cutmix" and objective in ("mart", "alp", "ibp"):
        pytest.skip("needs one label an image")
    adv = "none" if objective == "standard" else "pgd(steps=2)"
    run = make_run(
        objective=objective, step=step, adv=adv, augment=augment, ema=0.9, arch="tests.helpers.tiny_run:small_cnn"
    )
    run.state.train_mode()
    batches = run.batches()
    for number in range(3):
        if number:
            with NoReading():
                x, y = next(batches)
                run.state.train_step(x, y)
        else:
            x, y = next(batches)
            run.state.train_step(x, y)
