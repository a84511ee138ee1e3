"""Models that cannot be read as a list of layers are refused with a message that names the reason."""

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

import robustcls
from robustcls.certification.bounds import certify_bounds
from robustcls.core.errors import InputError


class Calls(nn.Module):
    """Applies `function(self, h)` to the three outputs of a first layer, and then a last layer."""

    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(16, 3), nn.Linear(3, 3)
        self.relu, self.shift = nn.ReLU(inplace=True), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.last(self.function(self, self.first(x.flatten(1))))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def bounds_of(net, n=1):
    """Return bounds for n random images, by default one."""
    torch.manual_seed(0)
    return certify_bounds(net.eval(), torch.rand(n, 1, 4, 4), torch.zeros(n, dtype=torch.long), "linf:0.01")


def by_module(self, h):
    return self.relu(h) + h


def by_function(self, h):
    return F.relu(h, inplace=True) - h


def by_flag_without_a_name(self, h):
    return F.leaky_relu(h, 0.1, True) + h


def by_method(self, h):
    return h.add_(1) + F.relu(h)


def by_operator(self, h):
    before = h
    h += 1
    return h + before


def through_a_view(self, h):
    view = h.view(h.size(0), 3)
    self.relu(h)
    return view + 1


def through_dropout(self, h):
    same = F.dropout(h, training=self.training)
    return self.relu(same) + h


def twice(self, h):
    first = self.relu(h)
    first *= 2
    return first + self.relu(h)


def with_a_hook(net):
    """Set activations to 0 that are larger than those of every clean image: nothing shows on these."""
    net[2].register_forward_hook(lambda module, given, out: torch.where(out > 100, 0.0, out))
    return net


def with_a_forward_of_its_own(net):
    net[2].forward = lambda h: h.clamp(0, 100)
    return net


def pruned(net):
    torch.nn.utils.prune.l1_unstructured(net[1], "weight", 0.5)
    return net


HOOKED = with_a_hook, with_a_forward_of_its_own, pruned


@pytest.mark.parametrize("change", HOOKED)
def test_what_the_tracer_does_not_see_is_refused(change):
    with pytest.raises(
        InputError, match=r"with a hook or a `forward` of its own, which may change its result"
    ) as refused:
        bounds_of(change(plain()))
    assert len(str(refused.value).splitlines()) == 1


def test_pruning_that_was_made_permanent_is_bounded():
    net = pruned(plain())
    torch.nn.utils.prune.remove(net[1], "weight")
    assert len(bounds_of(net).certified) == 1


INPLACE = (
    by_module, by_function, by_flag_without_a_name, by_method, by_operator, through_a_view, through_dropout, twice,
)  # fmt: skip


@pytest.mark.parametrize("function", INPLACE)
def test_a_value_that_is_used_again_after_something_was_written_on_it_is_refused(function):
    with pytest.raises(InputError, match=r"cannot be bounded: it overwrites \w+, which \w+ uses afterwards"):
        bounds_of(Calls(function))


def test_in_place_is_refused_where_the_images_do_not_show_it():
    net = Calls(lambda self, h: h)
    net.first.weight.data.fill_(1 / 16)
    net.first.bias.data.fill_(-0.996)
    net.function = lambda self, h: (g := 1 * h) + 4 * (self.relu(h) - h) + 0 * g
    net.last.weight.data = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]])
    net.last.bias.data = torch.tensor([0.0, 0.02, -1])
    x, y = torch.full((1, 1, 4, 4), 0.998), torch.tensor([1])
    assert net(x).argmax(1) == 1
    assert net(x - 0.03).argmax(1) == 0
    with pytest.raises(InputError, match="overwrites"):
        certify_bounds(net.eval(), x, y, "linf:0.03")


def test_writing_on_what_is_not_used_again_is_as_good_as_a_value_of_its_own():
    def inplace(self, h):
        kept = h * 1
        h = self.relu(h)
        h += kept
        h *= 2
        h /= 4
        h -= self.shift
        return F.relu(h, True).view(kept.size(0), -1)

    def not_inplace(self, h):
        return F.relu((F.relu(h) + h) * 2 / 4 - self.shift)

    torch.manual_seed(1)
    one = Calls(inplace)
    other = Calls(not_inplace)
    other.load_state_dict(one.state_dict())
    assert torch.equal(bounds_of(one, 4).margins, bounds_of(other, 4).margins)


def test_writing_on_the_models_own_is_refused():
    with pytest.raises(InputError, match="overwrites a value of the model itself"):
        bounds_of(Calls(lambda self, h: h + self.shift.view(1, 3).add_(1)))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda self, h: h.data + 0 * h, "it takes .data of a value"),
        (lambda self, h: h.T.T * 1 + h, "it takes .T of a value"),
        (lambda self, h: h + torch.stack([h, h]).sum(0), "the function stack"),
        (lambda self, h: h + torch.cat([h], 1), "the function cat"),
        (lambda self, h: torch.add(h, 1, out=h), "the function add"),
    ],
)
def test_what_depends_on_the_image_is_never_taken_for_a_constant(function, said):
    with pytest.raises(InputError, match=said):
        bounds_of(Calls(function))


def scripted():
    return torch.jit.trace(plain().eval(), torch.rand(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: robustcls.ensemble(plain(), plain()), r"the model is ensemble\(Sequential, Sequential\), a wrapper"),
        (lambda: robustcls.smoothed(plain(), sigma=0.1), r"the model is smoothed\(Sequential, sigma=0.1\), a wrapper"),
        (lambda: nn.DataParallel(plain()), "DataParallel, a wrapper for several devices: give the model inside, its .module"),
        (scripted, "compiled by torch.jit: give the module that it was made from"),
        (lambda: nn.Sequential(scripted()), r"and 0 of the model is \w+, compiled by torch.jit"),
        (lambda: torch.compile(plain(), backend="eager"), "the model is compiled by torch.compile: give the module"),
        (lambda: Calls(lambda self, h: h.view(len(h), -1)), r"Calls cannot be read .*: write x.shape\[0\]"),
        (lambda: Calls(lambda self, h: h if h.mean() > 0 else -h), "its code decides by the values of a tensor"),
        (lambda: Calls(lambda self, h: sum(one for one in h)), "its code loops over a tensor"),
        (lambda: Calls(lambda self, h: h * float(h.shape[0])), "its code takes a number out of a tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_without_the_tracers_words(model, said):
    with pytest.raises(InputError, match=said) as refused:
        bounds_of(model())
    assert "\n" not in str(refused.value)
    assert "Proxy" not in str(refused.value)
