"""Finding the logits in the output of a network."""

import copy
from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.logits import as_classifier
from robustcls.core.threat import ThreatModel

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Pair(NamedTuple):
    scores: torch.Tensor
    features: torch.Tensor


class Net(nn.Module):
    """A linear network whose logits are part of another structure."""

    def __init__(self, form, outputs=3):
        super().__init__()
        torch.manual_seed(3)
        self.form, self.layer = form, nn.Linear(16, outputs)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return self.form(self.layer(self.norm(x).flatten(1)))


FORMS = {
    "mapping": (lambda z: {"features": z * 2, "logits": z}, "'logits' of a mapping"),
    "ordered": (lambda z: OrderedDict(out=z, aux=z * 2), "'out' of a mapping"),
    "only matrix": (lambda z: {"loss": z.sum(), "cls": z}, "'cls' of a mapping"),
    "tuple": (lambda z: (z, z * 2), "first of 2 parts of a tuple"),
    "list": (lambda z: [z], "first of 1 parts of a list"),
    "named tuple": (lambda z: Pair(z, z), "first of 2 parts of a Pair"),
    "loss before": (lambda z: (None, z), "first of 2 parts"),
    "object": (lambda z: SimpleNamespace(logits=z, hidden=None), r"\.logits of SimpleNamespace"),
    "trailing ones": (lambda z: z[:, :, None, None], "output N,3,1,1 is taken as N,3"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_part_with_the_logits_is_taken_and_said(form):
    how, words = FORMS[form]
    net, plain = Net(how), Net(lambda z: z).eval()
    model, said = as_classifier(net, X[:2])
    model.eval()
    torch.testing.assert_close(model(X), plain(X), rtol=1e-6, atol=1e-6)
    assert words.replace("\\", "") in said


@pytest.mark.parametrize("form", [lambda z: z, lambda z: z[:, 0]], ids=["N,1", "N"])
def test_one_logit_speaks_for_class_1_of_two(form):
    net = Net(form, outputs=1).eval()
    model, said = as_classifier(net, X[:2])
    z = net(X).flatten()
    assert torch.allclose(model(X).softmax(1)[:, 1], z.sigmoid())
    assert torch.equal(model(X).argmax(1), (z > 0).long())
    assert model(X[:1]).shape == (1, 2)
    assert "class 1" in said


class Feeling(nn.Module):
    """A network with one output for two classes, near 0 or far from it, with or without a sigmoid."""

    def __init__(self, form, scale=1.0, bias=0.0):
        super().__init__()
        torch.manual_seed(2)
        self.form, self.layer = form, nn.Linear(16, 1)
        self.layer.weight.data *= scale
        self.layer.bias.data.fill_(bias)

    def forward(self, x):
        return self.form(self.layer(x.flatten(1)))


PROBABILITIES = {
    "N,1": torch.sigmoid,
    "N": lambda z: z.sigmoid()[:, 0],
    "in a mapping": lambda z: {"logits": z.sigmoid()},
    "half": lambda z: z.sigmoid().half(),
}


@pytest.mark.parametrize("form", PROBABILITIES)
@pytest.mark.parametrize("inside", [False, True])
def test_one_probability_is_no_logit(form, inside):
    net, plain = Feeling(PROBABILITIES[form], 3), Feeling(lambda z: z, 3)
    if inside:
        net = Classifier(net, classes="ab", input_size=(1, 4, 4))
    model, said = as_classifier(net, X[:4])
    expected, _ = as_classifier(plain, X[:4])
    atol = 1e-2 if form == "half" else 1e-4
    torch.testing.assert_close(model(X), expected(X), atol=atol, rtol=0)
    assert 0 < model(X).argmax(1).sum() < len(X)
    assert "probability p" in said


def test_one_logit_that_lies_between_0_and_1_on_the_images_stays_a_logit():
    net = Feeling(lambda z: z, 0.01, 0.5)
    assert ((net(X) > 0) & (net(X) < 1)).all()
    model, said = as_classifier(net, X[:4])
    assert (model(X).argmax(1) == 1).all()
    assert "one logit" in said


def test_a_saturated_probability_has_a_finite_logit():
    model, _ = as_classifier(Feeling(torch.sigmoid, 1000), X[:4])
    assert model(X).isfinite().all()


def test_one_probability_has_the_accuracy_and_the_attacks_of_its_logit():
    y = (Feeling(lambda z: z, 3)(X) > 0).long()[:, 0]
    found = []
    for form in (torch.sigmoid, lambda z: z):
        with pytest.warns(UserWarning, match="class 1 of two"):
            found.append(
                robustcls.evaluate(Feeling(form, 3), X, y, ThreatModel("linf", 0.05), attacks=["pgd(steps=3)"])
            )
    assert found[0].clean.value == found[1].clean.value == 1
    assert found[0].robust == found[1].robust


def features(z):
    return torch.cat([z, z], 1), z


def test_the_part_with_a_column_a_class_is_taken_where_that_is_known():
    net, plain = Net(features).eval(), Net(lambda z: z).eval()
    for model in (net, Classifier(net, classes="", input_size=(1, 4, 4))):
        fitted, said = as_classifier(model, X, 3)
        torch.testing.assert_close(fitted.eval()(X), plain(X), rtol=1e-6, atol=1e-6)
        assert "part 2 of 2 parts of a tuple (N,6, N,3)" in said
    net.classes = ("a", "b", "c")
    y = plain(X).argmax(1)
    with pytest.warns(UserWarning, match="part 2 of 2"):
        assert robustcls.evaluate(net, X, y, ThreatModel("linf", 0.0), attacks=["noise"]).clean.value == 1
    with pytest.warns(UserWarning, match="part 2 of 2"):
        maps = robustcls.explain(net, X, y, "deeplift")
    assert torch.allclose(maps, robustcls.explain(plain, X, y, "deeplift"), atol=1e-6)


@pytest.mark.parametrize("classes", [3, None])
def test_the_first_of_several_possible_outputs_is_taken_and_its_shape_named(classes):
    form = (lambda z: (z, z * 2)) if classes == 3 else features
    net = Net(form).eval()
    fitted, said = as_classifier(net, X, classes)
    torch.testing.assert_close(fitted(X), form(Net(lambda z: z).eval()(X))[0], rtol=1e-6, atol=1e-6)
    assert f"the first of 2 parts of a tuple (N,{3 if classes == 3 else 6}, N,3)" in said


@pytest.mark.parametrize("inside", [False, True])
def test_what_was_chosen_once_is_not_asked_again(inside):
    net = Net(lambda z: (z, z[:, :2])).eval()
    if inside:
        net = Classifier(net, classes="", input_size=(1, 4, 4)).eval()
    fitted, _ = as_classifier(net, X, 3)
    assert as_classifier(fitted, X, None, torch.tensor([0, 1])) == (fitted, "")


def test_parts_of_which_none_has_a_column_a_class_are_refused():
    with pytest.raises(InputError, match=r"tuple \(N,6, N,3\) would be taken, and none .* 4 classes"):
        as_classifier(Net(features), X, 4)


def test_features_that_labels_contradict_are_not_taken_for_logits():
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    for judge in (
        lambda: robustcls.evaluate(Net(features), X, y, ThreatModel("linf", 0.1), attacks=["noise"]),
        lambda: robustcls.attack(Net(features), X, y, ThreatModel("linf", 0.1), "noise"),
    ):
        with pytest.raises(InputError, match=r"tuple \(N,6, N,3\).* labels are 0 to 2: return the logits alone"):
            judge()


def test_a_module_that_gives_logits_is_the_model_itself():
    net = Net(lambda z: z)
    assert as_classifier(net, X[:2]) == (net, "")


def test_a_mapping_without_logits_is_refused():
    with pytest.raises(InputError, match="a mapping with 'a', 'b': name the logits"):
        as_classifier(Net(lambda z: {"a": z, "b": z}), X[:2])


def test_a_classifier_takes_the_part_in_training_too():
    model = Classifier(Net(FORMS["tuple"][0]), classes="abc", input_size=(1, 4, 4))
    assert model.train()(X).shape == (6, 3)
    fitted, said = as_classifier(model, X[:2])
    assert fitted is model
    assert "first of 2 parts" in said


@pytest.mark.parametrize("form", ["mapping", "tuple", "object", "trailing ones"])
def test_python_takes_such_modules_says_so_and_leaves_them_as_they_were(form):
    how, words = FORMS[form]
    net, plain = Net(how).train(), Net(lambda z: z).train()
    before = copy.deepcopy(net.state_dict())
    y = plain.eval()(X).argmax(1)
    threat = ThreatModel("linf", 0.1)
    with pytest.warns(UserWarning, match=words):
        found = robustcls.evaluate(net, X, y, threat, attacks=["pgd(steps=3)"])
    expected = robustcls.evaluate(plain, X, y, threat, attacks=["pgd(steps=3)"])
    assert found.robust == expected.robust
    assert found.model.name == "Net"
    assert words.replace("\\", "") in found.model.note
    with pytest.warns(UserWarning, match=words):
        x_adv = robustcls.attack(net, X, y, threat, "pgd(steps=3)")
    assert torch.equal(x_adv, robustcls.attack(plain, X, y, threat, "pgd(steps=3)"))
    for method in ("saliency", "integrated_gradients", "deeplift"):
        with pytest.warns(UserWarning, match=words):
            maps = robustcls.explain(net, X, y, method)
        assert torch.allclose(maps, robustcls.explain(plain, X, y, method), atol=1e-6)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
