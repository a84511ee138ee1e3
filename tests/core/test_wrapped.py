import pytest

from robustcls.core.errors import InputError
from robustcls.core.wrapped import inner_spec, split_wrappers, wrapped_name


@pytest.mark.parametrize(
    ("spec", "inner", "wrappers"),
    [
        ("ckpt.pt", "ckpt.pt", []),
        ("mylab.nets:net", "mylab.nets:net", []),
        ("http://host/v2/models/a(b)", "http://host/v2/models/a(b)", []),
        ("averaged(mylab.nets:net)", "mylab.nets:net", [("averaged", {})]),
        (" averaged( runs/a b/ckpt.pt , draws = 5 ) ", "runs/a b/ckpt.pt", [("averaged", {"draws": 5})]),
        ("straight_through(a.pt, layer=net.0.conv)", "a.pt", [("straight_through", {"layer": "net.0.conv"})]),
        ("straight_through(a.pt, layer=0)", "a.pt", [("straight_through", {"layer": "0"})]),
        ("straight_through(a.pt, layer=0.1)", "a.pt", [("straight_through", {"layer": "0.1"})]),
        ("straight_through(a.pt, layer='x')", "a.pt", [("straight_through", {"layer": "x"})]),
        (
            "averaged(straight_through(m:n, layer=m:f, substitute=m:g), draws=3)",
            "m:n",
            [("straight_through", {"layer": "m:f", "substitute": "m:g"}), ("averaged", {"draws": 3})],
        ),
        ("mylab.more:mine(a.pt, k=2)", "a.pt", [("mylab.more:mine", {"k": 2})]),
    ],
)  # fmt: skip
def test_a_spec_is_split_into_the_model_and_its_wrappers(spec, inner, wrappers):
    found, around = split_wrappers(spec)
    assert (found, [(one.name, dict(one.options)) for one in around]) == (inner, wrappers)
    assert inner_spec(spec) == inner
    if wrappers:
        assert split_wrappers(wrapped_name(inner, around)) == (found, around), "the name is a spec again"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("averaged()", "around nothing"),
        ("averaged(draws=3)", "around nothing"),
        ("averaged(averaged())", "around nothing"),
        ("averagd(a.pt)", "did you mean 'averaged'"),
        ("averaged(a.pt, 3)", "is not a spec"),
    ],
)
def test_what_is_no_wrapper_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        split_wrappers(spec)


def test_a_path_that_exists_is_a_path(tmp_path):
    (tmp_path / "odd(1)").touch()
    assert split_wrappers(str(tmp_path / "odd(1)")) == (str(tmp_path / "odd(1)"), [])
