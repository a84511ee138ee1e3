import tomllib
from dataclasses import dataclass
from typing import Literal

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcls.core.config import option, read_toml, resolve, to_toml
from robustcls.core.errors import InputError


@dataclass(kw_only=True)
class Config:
    steps: int = option(3, "Steps.")
    lr: float = option(0.1, "Rate.")
    name: str | None = option(None, "Name.")
    norm: Literal["linf", "l2"] | None = option(None, "Norm.")
    batch: int | str = option("auto", "Batch.")
    quiet: bool = option(False, "Quiet.")
    attack: tuple[str, ...] = option((), "Attack.")


def test_later_layers_win_and_none_says_nothing():
    assert resolve(Config) == Config()
    found = resolve(Config, {"steps": 5, "lr": 1, "name": "a"}, {"steps": 7, "name": None, "attack": ["x", "y"]})
    assert found == Config(steps=7, lr=1.0, name="a", attack=("x", "y"))
    assert type(found.lr) is float


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"step": 3}, "unknown option 'step': did you mean 'steps'"),
        ({"steps": 3.0}, "option steps: 3.0 is not a whole number"),
        ({"steps": True}, "is not a whole number"),
        ({"steps": "3"}, "is not a whole number"),
        ({"lr": "fast"}, "option lr: 'fast' is not a number"),
        ({"lr": float("nan")}, "option lr: nan is not a number"),
        ({"lr": float("inf")}, "option lr: inf is not a number"),
        ({"lr": 10**400}, "is not a number"),
        ({"name": 3}, "option name: 3 is not text"),
        ({"name": [0.5] * 100}, "option name: list is not text"),
        ({"name": numpy.zeros(9)}, "option name: ndarray is not text"),
        ({"norm": "l3"}, "unknown norm 'l3': did you mean"),
        ({"quiet": 1}, "option quiet: 1 is not true or false"),
        ({"batch": 1.5}, "option batch: 1.5 is not a whole number or text"),
        ({"attack": "pgd"}, "option attack: 'pgd' is not a list"),
        ({"attack": ["pgd", 3]}, "option attack: 3 is not text"),
    ],
)
def test_wrong_options(layer, message):
    with pytest.raises(InputError) as caught:
        resolve(Config, layer)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


TEXT = st.text(st.characters(blacklist_categories=["Cs"]))


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Config,
        steps=st.integers(-(2**63), 2**63 - 1),
        lr=st.floats(allow_nan=False, allow_infinity=False),
        name=st.none() | TEXT,
        norm=st.sampled_from([None, "linf", "l2"]),
        batch=st.integers(1, 10**6) | TEXT,
        quiet=st.booleans(),
        attack=st.lists(TEXT).map(tuple),
    )
)
def test_toml_both_ways(config):
    assert resolve(Config, tomllib.loads(to_toml(config))) == config


def test_toml_files(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('# a comment\nbatch-size = 3\nname = "é"\n', encoding="utf-8")
    assert read_toml(file) == {"batch_size": 3, "name": "é"}
    for content, message in ((b"a = = 3", "is not TOML"), (b"a = '\xff'", "is not TOML")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_toml(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read .*none.toml"):
        read_toml(tmp_path / "none.toml")
