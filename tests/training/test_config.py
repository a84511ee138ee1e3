"""The options of training: defaults, and what is refused."""

import pytest

from robustcls.core.errors import InputError
from robustcls.training.config import TrainConfig


def test_what_is_left_open_is_filled_in():
    config = TrainConfig()
    assert (config.data, config.norm, config.eps, config.adv) == ("digits", "linf", "8/255", "pgd")
    assert (config.objective, config.step, config.arch) == ("adversarial", "once", "vgg16")
    assert TrainConfig(adv="none").objective == "standard"
    assert TrainConfig(adv="none", objective="adversarial").objective == "adversarial"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "`epochs=0`"),
        ({"val_n": 0}, "`val_n=0`"),
        ({"limit_train": -3}, "`limit_train=-3`"),
        ({"lr": -0.1}, "`lr=-0.1`"),
        ({"lr": float("nan")}, "`lr=nan`"),
        ({"lr": float("inf")}, "`lr=inf`"),
        ({"momentum": 1.0}, "`momentum=1.0`"),
        ({"ema": 1.0}, "`ema=1.0`"),
        ({"weight_decay": -1e-4}, "`weight_decay="),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"batch_size": "many"}, "`batch_size='many'`"),
        ({"norm": "l2"}, "give `eps`"),
    ],
)
def test_what_is_out_of_range_names_the_option(options, words):
    with pytest.raises(InputError, match=words):
        TrainConfig(**options)
