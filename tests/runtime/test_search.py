import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.models.vgg import vgg16
from robustcls.runtime.search import Counted, SearchTwin, folded_weights, make_search_model


@pytest.fixture
def vgg():
    torch.manual_seed(0)
    model = vgg16(5, (3, 32, 32), width=0.125)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


@pytest.fixture
def x():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def agree(twin: nn.Module, model: nn.Module, x: Tensor) -> None:
    training = model.training
    with torch.no_grad():
        expected = model.eval()(x)
    model.train(training)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_folding_is_exact(x):
    torch.manual_seed(0)
    for bias in (True, False):
        conv, norm = nn.Conv2d(3, 4, 3, bias=bias).double(), nn.BatchNorm2d(4).double()
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.1, 3)
        nn.init.uniform_(norm.weight, -2, 2)
        weight, shift = folded_weights(conv, norm)
        expected = norm.eval()(conv(x.double()))
        torch.testing.assert_close(nn.functional.conv2d(x.double(), weight, shift), expected)


def test_the_twin_gives_the_models_logits_also_after_an_update(vgg, x):
    vgg.train()
    twin = SearchTwin(vgg)
    agree(twin, vgg, x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.twin.modules())
    assert not twin.twin.training
    assert vgg.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    optimizer = torch.optim.SGD(vgg.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        vgg(x).pow(2).mean().backward()  # also moves the statistics
        optimizer.step()
    with torch.no_grad():
        stale = (twin(x) - vgg.eval()(x)).abs().max()
    assert stale > 0.01, "the update changed nothing"
    vgg.train()
    twin.refresh()
    agree(twin, vgg, x)


def test_the_twin_gives_the_models_gradients(vgg, x):
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    twin, model = SearchTwin(vgg), vgg.eval()
    expected = input_gradient(model, x, y)
    torch.testing.assert_close(input_gradient(twin, x, y), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert all(parameter.grad is None for parameter in vgg.parameters())


def test_the_model_is_no_part_of_its_twin(vgg):
    before = copy.deepcopy(vgg.state_dict())
    twin = SearchTwin(vgg)
    ours = {id(tensor) for tensor in (*vgg.parameters(), *vgg.buffers())}
    assert not ours & {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}
    assert all(torch.equal(before[name], tensor) for name, tensor in vgg.state_dict().items())


class Shared(nn.Module):
    """The norm is used twice, the convolution observed: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), self.norm, nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), self.norm)
        self.third = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.third[0].register_forward_hook(lambda module, arguments, output: 2 * output)
        self.fourth = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False))
        self.fifth = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.fifth(self.fourth(self.third(self.second(self.first(x))))).mean((2, 3))


def test_what_cannot_be_folded_is_left(x):
    torch.manual_seed(0)
    model = Shared()
    for norm in (model.norm, model.third[1], model.fourth[1]):
        norm.running_mean.uniform_(-0.5, 0.5)
    twin = SearchTwin(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in twin.twin.modules()) == 4
    agree(twin, model, x)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 4)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Forgetful(Locked):
    """Its copy is another model."""

    scale = 1.0

    def __deepcopy__(self, memo):
        model = Forgetful()
        model.scale = 1.1
        return model

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Proud(Locked):
    """Its copy does not run."""

    def __deepcopy__(self, memo):
        model = Proud()
        model.head.register_forward_pre_hook(lambda *_: 1 / 0)
        return model


class Stubborn(Locked):
    def __deepcopy__(self, memo):
        raise AssertionError("never")


@pytest.mark.parametrize("kind", [Locked, Forgetful, Proud, Stubborn])
def test_without_a_faithful_twin_the_model_itself_is_searched(kind, x):
    torch.manual_seed(0)
    model = kind()
    search = make_search_model(model, "fp32", x)
    assert isinstance(search, Counted)
    assert torch.equal(search(x), model(x))


def test_a_faithful_twin_is_taken(vgg, x):
    search = make_search_model(vgg, "fp32", x)
    assert isinstance(search, SearchTwin)
    assert (search.forwards, search.backwards) == (0, 0)
    assert vgg.training
    low = make_search_model(vgg, "bf16", x)
    assert isinstance(low, SearchTwin)
    with torch.no_grad():
        assert low(x).dtype == torch.float32
        assert not torch.equal(low(x), search(x)), "it does not run in low precision"


@pytest.mark.parametrize("kind", [SearchTwin, Counted])
def test_images_are_counted(kind, vgg, x):
    model = kind(vgg.eval())
    with torch.no_grad():
        model(x)
    assert (model.forwards, model.backwards) == (6, 0)
    input_gradient(model, x[:4], torch.zeros(4, dtype=torch.long))
    assert (model.forwards, model.backwards) == (10, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [SearchTwin, Counted])
def test_models_of_other_precision_take_fp32_images(kind, dtype, x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).to(dtype)
    search = kind(model)
    assert search(x).dtype == torch.float32
    torch.testing.assert_close(search(x), model(x.to(dtype)).float())


@pytest.mark.parametrize("kind", [SearchTwin, Counted])
def test_models_that_write_on_their_input(kind, x):
    class Writes(Locked):
        def __init__(self) -> None:
            super().__init__()
            del self.lock

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    pixels, search = x.clone(), kind(Writes())
    grad = input_gradient(search, x, torch.zeros(6, dtype=torch.long))
    assert torch.equal(x, pixels)
    assert grad.abs().max() > 0


def test_what_are_no_logits():
    for net in (nn.Flatten(0), nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), nn.LSTM(2, 2)):
        with pytest.raises(InputError, match="must give logits"):
            Counted(net)(torch.rand(2, 3, 2, 2) if not isinstance(net, nn.LSTM) else torch.rand(2, 3, 2))
