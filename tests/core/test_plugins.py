import json
import sys
from functools import partial

import pytest

from robustcls.cli.main import main
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.plugins import KINDS, Spec, describe, load, names, parse, resolved, with_options

MODULE = """
def foo(model, x, y, threat, *, k: int = 2, scale: float = 1.0, generator=None):
    return (k, scale)

def needs(model, x, y, threat, *, k: int, generator=None):
    return k

class Callable:
    def __call__(self, model): ...

value = 3
"""
FUTURE = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from nowhere import Loss

def foo(model, x, y, threat, *, k: int = 2, scale: float | None = None, word: str = "a", loss: Loss = None, generator=None):
    return k, scale, word
"""


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "attacks.py").write_text(MODULE)
    (package / "future.py").write_text(FUTURE)
    (package / "broken.py").write_text("import mylab_has_no_such_thing\n")
    (package / "typo.py").write_text("int('x')\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def refused(kind, spec, how=load):
    with pytest.raises(InputError) as caught:
        how(kind, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_names_lists_what_can_be_loaded_and_nothing_else(kind):
    assert names(kind) == sorted(names(kind))
    assert [plugin.name for plugin in describe(kind)] == names(kind)
    for plugin in describe(kind):
        needed = tuple(
            (one.name, "x" if one.type.startswith("str") else 1) for one in plugin.options if one.default == "required"
        )
        spec = Spec(plugin.name, (), needed)
        function = load(kind, spec)
        assert function.func.__name__ == plugin.name
        assert function.func.__module__ == plugin.module, "an imported function is no plug-in"
        assert plugin.summary, f"{plugin.name} has no docstring"
        assert not plugin.name.startswith("_")
        assert [option.name for option in plugin.options] == list(resolved(kind, spec)), plugin.name


def test_the_attacks():
    assert {"fgsm", "pgd", "apgd_ce", "apgd_dlr", "apgd_t"} <= set(names("attack"))
    assert not {"attack", "active", "misclassified", "targeted_dlr", "_ascend"} & set(names("attack"))
    assert not {"augment", "images", "splits", "loader", "download", "cifar"} & set(names("data"))
    assert not {"vgg", "checkpoint", "loading", "load"} & set(names("model"))
    assert "fast" in names("suite")


def test_a_signature_is_read_from_the_source():
    pgd = next(plugin for plugin in describe("attack") if plugin.name == "pgd")
    assert (
        pgd.signature == "pgd(steps=10, step_size=None, momentum=0.0, restarts=1, random_start=True, early_stop=True)"
    )
    assert pgd.path == "robustcls/attacks/pgd.py"
    gradients = next(plugin for plugin in describe("attribution") if plugin.name == "integrated_gradients")
    assert "baseline='black'" in gradients.signature, "options with fixed choices are in the signature, too"


def test_unknown_kinds_and_names():
    assert "did you mean 'attack'" in refused("atack", "pgd")
    assert "unknown attack 'pdg': did you mean 'pgd'" in refused("attack", "pdg")
    assert "there are apgd_ce" in refused("attack", "zzzzzzzz")
    assert "unknown attack ''" in refused("attack", "")
    assert "unknown attack" in refused("attack", "pgd:foo")
    assert "did you mean 'fast'" in refused("suite", "fsat")


def test_options_are_bound():
    assert load("attack", " pgd( steps = 20 , step_size=2/255 ) ").keywords == {"steps": 20, "step_size": 2 / 255}
    assert load("attack", "pgd()").keywords == {}
    assert load("attack", "pgd(step_size=1)").keywords == {"step_size": 1.0}
    assert load("attack", "pgd(step_size=-1/4)").keywords == {"step_size": -0.25}
    assert load("attack", "pgd(step_size=None, random_start=False)").keywords["random_start"] is False
    assert load("attribution", 'integrated_gradients(baseline="blur")').keywords == {"baseline": "blur"}
    assert load("data", "folder:a/b (c):d").args == ("a/b (c):d",)


def test_resolved_fills_in_the_defaults():
    assert resolved("attack", "pgd(steps=3)") == {
        "steps": 3, "step_size": None, "momentum": 0.0, "restarts": 1, "random_start": True, "early_stop": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pgd(step=3)", "unknown option of pgd 'step': did you mean 'steps'"),
        ("pgd(generator=3)", "unknown option of pgd 'generator'"),
        ("pgd(loss='x')", "unknown option of pgd 'loss'"),
        ("pgd(steps=3.0)", "steps=3.0 is not a whole number"),
        ("pgd(steps='3')", "steps='3' is not a whole number"),
        ("pgd(steps=True)", "steps=True is not a whole number"),
        ("pgd(steps=None)", "steps=None is not a whole number"),
        ("pgd(steps=[3])", "steps=[3] is not a whole number"),
        ("pgd(step_size='big')", "step_size='big' is not a number"),
        ("pgd(step_size=1e999)", "step_size=inf is not a number"),
        (f"pgd(step_size=1{'0' * 400})", "is not a number"),
        ("pgd(random_start=1)", "random_start=1 is not true or false"),
        ("pgd(**{'steps': 3})", "unknown option of pgd '**'"),
    ],
)
def test_wrong_options_say_what_the_plug_in_takes(spec, message):
    text = refused("attack", spec)
    assert message in text
    assert "pgd takes steps=10, step_size=None, momentum=0.0, restarts=1, random_start=True" in text


def test_choices():
    assert "is not 'black' or" in refused("attribution", "integrated_gradients(baseline='white')")


def test_a_plain_word_is_text():
    assert dict(parse("attribution", "integrated_gradients(baseline=mean)").options) == {"baseline": "mean"}
    assert "steps='steps'" in refused("attack", "pgd(steps=steps)")


@pytest.mark.parametrize(
    "inside",
    [
        "steps=__import__('os')",
        "steps=open('/etc/passwd')",
        "steps=(lambda: 3)()",
        "steps=[i for i in range(3)]",
        "steps=3 if 1 else 2",
        "steps=2**9",
        "steps=1/0",
        "steps='a'/2",
        "steps={[]: 1}",
        f"step_size=1{'0' * 400}/3",
        f"steps={'-' * 5000}1",
        f"steps={'(' * 5000}1",
        "3",
        "*[3]",
        "steps=3",  # the test leaves the closing parenthesis out
        "steps=1, steps=2",
        "steps=3)(steps=4",
        "steps=3) + f(",
        "steps=3); import os; (",
        "steps=\x00",
    ],
)
def test_nothing_is_evaluated(inside, monkeypatch):
    ran = []
    monkeypatch.setattr("builtins.eval", lambda *code: ran.append(code))
    monkeypatch.setattr("builtins.exec", lambda *code: ran.append(code))
    spec = f"pgd({inside}" if inside == "steps=3" else f"pgd({inside})"
    message = refused("attack", spec, parse)
    assert "is not a spec" in message
    assert ran == []


def test_specs_print_as_they_are_written():
    for spec in ("pgd", "pgd(steps=20, step_size=0.5)", "integrated_gradients(baseline='blur')"):
        assert str(parse("attack", spec)) == spec
        assert parse("attack", str(parse("attack", spec))) == parse("attack", spec)


def test_dotted_plug_ins(mylab):
    assert load("attack", "mylab.attacks:foo(k=3)")(1, 2, 3, 4) == (3, 1.0)
    assert resolved("attack", "mylab.attacks:foo(scale=1/2)") == {"k": 2, "scale": 0.5}
    assert "did you mean 'scale'" in refused("attack", "mylab.attacks:foo(scal=3)")
    assert load("attack", "mylab.attacks:needs(k=3)")(1, 2, 3, 4) == 3


def test_dotted_plug_ins_with_annotations_as_text(mylab):
    assert load("attack", "mylab.future:foo(k=3, scale=2, word='b')")(1, 2, 3, 4) == (3, 2.0, "b")
    assert resolved("attack", "mylab.future:foo") == {"k": 2, "scale": None, "word": "a"}
    assert "k='x' is not a whole number" in refused("attack", "mylab.future:foo(k='x')")
    assert "loss" in refused("attack", "mylab.future:foo(loss=3)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mylab.attacks:bar", "the module has no 'bar'"),
        ("mylab.attacks:", "the module has no ''"),
        ("mylab.attacks:value", "is not callable"),
        ("mylab.nothing:foo", "no module 'mylab.nothing'"),
        ("nolab.attacks:foo", "no module 'nolab'"),
        (":foo", "not the name of a module"),
        ("..attacks:foo", "not the name of a module"),
        ("my lab:foo", "not the name of a module"),
        ("mylab.attacks:needs", "needs k"),
        ("mylab.attacks:needs(j=1)", "takes k"),
    ],
)
def test_wrong_dotted_names_say_which_part(spec, message, mylab):
    assert message in refused("attack", spec)


def test_a_plug_ins_own_error_is_not_hidden(mylab):
    with pytest.raises(ModuleNotFoundError, match="mylab_has_no_such_thing"):
        load("attack", "mylab.broken:foo")
    with pytest.raises(ValueError, match="invalid literal"):
        load("attack", "mylab.typo:foo")


def test_a_command_searches_the_current_folder_and_the_library_leaves_the_path_alone(tmp_path, monkeypatch):
    (tmp_path / "here_alone.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = [entry for entry in sys.path if entry]
    monkeypatch.setattr(sys, "path", [*before])
    assert "no module 'here_alone'" in refused("attack", "here_alone:foo")
    assert sys.path == before
    with pytest.raises(SystemExit):
        main(["list", "schedule"])
    assert load("attack", "here_alone:foo")(1, 2, 3, 4) == (2, 1.0)
    del sys.modules["here_alone"]


def test_listing_imports_nothing(monkeypatch):
    plugins._plugins.cache_clear()
    monkeypatch.setattr("importlib.import_module", None)
    assert all(describe(kind) is not None for kind in KINDS)


def mine(model, x, y, threat, rate=0.5, *, k: int = 2, scale: float | None = None, loss=None, generator=None):
    return k, scale


class Mine:
    def __call__(self, model, x, y, threat, *, k: int = 2, generator=None):
        return k


def test_a_function_of_ones_own_is_a_plug_in():
    assert load("attack", mine)(1, 2, 3, 4) == (2, None)
    assert str(parse("attack", mine)) == "mine"
    assert resolved("attack", mine) == {"rate": 0.5, "k": 2, "scale": None}


def test_a_partial_gives_its_keywords_as_options():
    attack = partial(partial(mine, k=3), scale=2.0, loss=len)
    assert load("attack", attack)(1, 2, 3, 4) == (3, 2.0)
    assert parse("attack", attack).name == "mine"
    assert dict(parse("attack", attack).options) == {"k": 3, "scale": 2.0, "loss": "<built-in function len>"}
    assert resolved("attack", attack) == {"rate": 0.5, "k": 3, "scale": 2.0, "loss": "<built-in function len>"}
    json.dumps(resolved("attack", attack))


def test_an_option_without_annotation_has_the_type_of_its_default(mylab):
    (mylab / "mylab" / "plain.py").write_text("def foo(model, x, y, threat, *, k=2, generator=None):\n    return k\n")
    assert load("attack", "mylab.plain:foo(k=3)")(1, 2, 3, 4) == 3
    assert resolved("attack", "mylab.plain:foo") == {"k": 2}
    assert "k='x' is not a whole number; mylab.plain:foo takes k=2" in refused("attack", "mylab.plain:foo(k='x')")


def test_other_callables_are_named_by_their_class():
    assert load("attack", Mine())(1, 2, 3, 4) == 2
    assert parse("attack", Mine()).name == "Mine"
    assert resolved("attack", Mine()) == {"k": 2}
    assert resolved("attack", max) == {}


def test_a_plug_in_of_ours_as_a_function_has_the_options_of_its_spec():
    pgd = load("attack", "pgd").func
    assert resolved("attack", partial(pgd, steps=3)) == resolved("attack", "pgd(steps=3)")
    assert load("attack", parse("attack", "pgd(steps=3)")).keywords == {"steps": 3}


def test_options_can_be_set_anew():
    assert with_options("attack", "pgd(steps=3)", steps=6, step_size=0.5) == "pgd(steps=6, step_size=0.5)"
    assert resolved("attack", with_options("attack", partial(mine, k=3), k=6))["k"] == 6


def test_a_file_whose_name_begins_with_an_underscore_is_no_plug_in(tmp_path, monkeypatch):
    (tmp_path / "seen.py").write_text('def seen(x):\n    """One."""\n')
    (tmp_path / "_hidden.py").write_text('__all__ = ["hidden"]\ndef hidden(x):\n    """Two."""\n')
    monkeypatch.setattr(plugins, "_ROOT", tmp_path.parent)
    monkeypatch.setitem(KINDS, "scratch", tmp_path.name)
    assert names("scratch") == ["seen"]
