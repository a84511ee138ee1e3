import pytest

from robustcls.core.errors import InputError
from robustcls.core.wrapped import read_wrapped

MODELS = ["ckpt.pt", "mylab.nets:net", "http://host/v2/models/a(b)"]


def shown(named):
    """Return the tree as nested tuples: name, options, inner models."""
    if named.wrapper is None:
        return named.spec
    return (named.wrapper.name, dict(named.wrapper.options), *map(shown, named.inside))


@pytest.mark.parametrize("spec", MODELS)
def test_a_model_is_no_wrapper(spec):
    named = read_wrapped(spec)
    assert (shown(named), named.first, named.wrappers, named.name()) == (spec, spec, [], spec)


@pytest.mark.parametrize(
    ("spec", "tree"),
    [
        ("averaged(mylab.nets:net)", ("averaged", {}, "mylab.nets:net")),
        (" averaged( runs/a b/ckpt.pt , draws = 5 ) ", ("averaged", {"draws": 5}, "runs/a b/ckpt.pt")),
        ("straight_through(a.pt, layer=net.0.conv)", ("straight_through", {"layer": "net.0.conv"}, "a.pt")),
        ("straight_through(a.pt, layer=0)", ("straight_through", {"layer": "0"}, "a.pt")),
        ("straight_through(a.pt, layer=0.1)", ("straight_through", {"layer": "0.1"}, "a.pt")),
        ("straight_through(a.pt, layer='x')", ("straight_through", {"layer": "x"}, "a.pt")),
        (
            "averaged(straight_through(m:n, layer=m:f, substitute=m:g), draws=3)",
            ("averaged", {"draws": 3}, ("straight_through", {"layer": "m:f", "substitute": "m:g"}, "m:n")),
        ),
        ("mylab.more:mine(a.pt, k=2)", ("mylab.more:mine", {"k": 2}, "a.pt")),
        ("mylab.more:vote(a.pt, m:n, k=2)", ("mylab.more:vote", {"k": 2}, "a.pt", "m:n")),
        ("ensemble(a.pt, b.pt)", ("ensemble", {}, "a.pt", "b.pt")),
        (
            "ensemble(averaged(m:n, draws=2), ensemble(a.pt,b.pt), timm/x)",
            ("ensemble", {}, ("averaged", {"draws": 2}, "m:n"), ("ensemble", {}, "a.pt", "b.pt"), "timm/x"),
        ),
        ("coarse(a.pt, tree.toml)", ("coarse", {"tree": "tree.toml"}, "a.pt")),
        ("coarse(a.pt, tree.toml, depth=2)", ("coarse", {"tree": "tree.toml", "depth": 2}, "a.pt")),
        (
            "coarse(ensemble(a.pt, b.pt), tree=x/tree.toml)",
            ("coarse", {"tree": "x/tree.toml"}, ("ensemble", {}, "a.pt", "b.pt")),
        ),
    ],
)  # fmt: skip
def test_a_spec_is_read_as_a_tree(spec, tree):
    named = read_wrapped(spec)
    options = [{key: dict(tree[1])[key] for key in sorted(tree[1])}]
    assert shown(named)[2:] == tree[2:]
    assert [{key: shown(named)[1][key] for key in sorted(shown(named)[1])}] == options
    assert shown(read_wrapped(named.name())) == shown(named), "the name is a spec of the same model"


def test_first_wrappers_and_names_of_a_tree():
    named = read_wrapped("coarse(ensemble(averaged(x/a.pt, draws=2), y/b.pt), tree.toml)")
    assert named.first == "x/a.pt"
    assert [one.name for one in named.wrappers] == ["averaged", "ensemble", "coarse"], "the innermost comes first"
    short = named.name(lambda spec: spec.rpartition("/")[2])
    assert short == "coarse(ensemble(averaged(a.pt, draws=2), b.pt), tree=tree.toml)"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("averaged()", "around nothing"),
        ("averaged(draws=3)", "around nothing"),
        ("averaged(averaged())", "around nothing"),
        ("ensemble()", "around nothing"),
        ("ensemble(a.pt, averaged())", "around nothing"),
        ("averagd(a.pt)", "did you mean 'averaged'"),
        ("ensemble(a.pt, averagd(a.pt))", "did you mean 'averaged'"),
        ("averaged(a.pt, 3)", "takes one model, and '3' is not option=value"),
        ("coarse(a.pt, b.toml, c.toml)", "takes one model, and 'c.toml' is not option=value"),
        ("coarse(a.pt, tree.toml, tree=b.toml)", "is not a spec"),
        ("ensemble(a.pt, x=1, b.pt)", "is not a spec"),
        ("ensemble(a.pt,, b.pt)", "is not a spec"),
    ],
)
def test_what_is_no_wrapper_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        read_wrapped(spec)


def test_a_path_that_exists_is_a_path(tmp_path):
    (tmp_path / "odd(1)").touch()
    assert shown(read_wrapped(str(tmp_path / "odd(1)"))) == str(tmp_path / "odd(1)")
