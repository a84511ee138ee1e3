import copy
import shutil
import threading

import pytest
import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen, input_gradient
from robustcls.models.architectures.vgg import vgg16
from robustcls.runtime.fused import Counted, FusedModel, folded_weights
from robustcls.runtime.search import make_search_model


@pytest.fixture
def vgg():
    torch.manual_seed(0)
    return unsettle(vgg16(5, (3, 32, 32), width=0.125))


@pytest.fixture
def x():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def agree(twin: nn.Module, model: nn.Module, x: Tensor) -> None:
    training = model.training
    with torch.no_grad():
        expected = model.eval()(x)
    model.train(training)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), expected, rtol=1e-4, atol=5e-4 * expected.abs().max().item())


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
    twin = FusedModel(vgg, x=x[:1])
    agree(twin, vgg, x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.copy.modules())
    assert not twin.copy.training
    assert vgg.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    optimizer = torch.optim.SGD(vgg.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        vgg(x).pow(2).mean().backward()  # also changes the statistics
        optimizer.step()
    with torch.no_grad():
        stale = (twin(x) - vgg.eval()(x)).abs().max()
    assert stale > 0.01, "the update changed nothing"
    vgg.train()
    twin.refresh()
    agree(twin, vgg, x)


def test_the_twin_gives_the_models_gradients(vgg, x):
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    twin, model = FusedModel(vgg, x=x[:1]), vgg.eval()
    expected = input_gradient(model, x, y)
    torch.testing.assert_close(input_gradient(twin, x, y), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert all(parameter.grad is None for parameter in vgg.parameters())


def test_the_model_is_no_part_of_its_twin(vgg, x):
    before = copy.deepcopy(vgg.state_dict())
    twin = FusedModel(vgg, x=x[:1])
    ours = {id(tensor) for tensor in (*vgg.parameters(), *vgg.buffers())}
    assert not ours & {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}
    assert all(torch.equal(before[name], tensor) for name, tensor in vgg.state_dict().items())


class Shared(nn.Module):
    """A network whose norms must not be folded: one is used twice, one follows a convolution with a hook, and two lack weights
    or statistics."""

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
    twin = FusedModel(model, x=x[:1])
    assert norms_left(twin) == 4
    agree(twin, model, x)


def unsettle(model: nn.Module) -> nn.Module:
    """Return the model with statistics and scales that make a missing fold visible."""
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
    return model


def norms_left(twin: FusedModel) -> int:
    return sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in twin.copy.modules())


@pytest.mark.parametrize(
    ("name", "left"), [("resnet18", 0), ("mobilenet_v3_small", 0), ("shufflenet_v2_x0_5", 0), ("densenet121", 62)]
)
def test_norms_are_found_wherever_a_network_keeps_them(name, left, x):
    """DenseNet normalises before its convolutions; norms that read a concatenation are not folded."""
    from torchvision import models

    model = unsettle(models.get_model(name, weights=None, num_classes=5)).train()
    state = copy.deepcopy(model.state_dict())
    twin = make_search_model(model, "fp32", x)
    assert isinstance(twin, FusedModel)
    assert norms_left(twin) == left
    agree(twin, model, x)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in (*model.modules(), *twin.modules()))


class Tricky(nn.Module):
    """A network whose layers look like pairs by their names, but need not be by what happens in between; logits N,4."""

    def __init__(self, between) -> None:
        super().__init__()
        self.conv, self.norm, self.between = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between
        self.same_norm = self.norm  # a second name, which forward uses
        self.head, self.head_norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.conv(x), self.same_norm)
        return self.head_norm(self.head(x.mean((2, 3))))


def written_on(y, norm):
    y.add_(1)
    return norm(y)


@pytest.mark.parametrize(
    ("between", "left"),
    [
        (lambda y, norm: norm(y).relu_(), 0),
        (lambda y, norm: norm(y) if y.shape[1] == 4 and y.dim() == 4 else y, 0),
        (lambda y, norm: norm(y) + y, 1),
        (lambda y, norm: norm(y) * y.mean(), 1),
        (lambda y, norm: norm(y.relu()), 1),
        (lambda y, norm: norm(norm(y)), 1),
        (written_on, 1),
    ],
    ids=["plain", "shapes asked", "residual", "gated", "relu between", "twice", "written on"],
)
def test_a_layer_is_folded_where_its_output_goes_to_the_norm_alone(between, left, x):
    """This holds even at the start of training, when every norm is the identity and no comparison would show a mistake."""
    model = Tricky(between).train()
    twin = FusedModel(model, x=x[:1])
    assert norms_left(twin) == left
    unsettle(model)
    twin.refresh()
    agree(twin, model, x)


def test_a_linear_norm_over_another_dimension_is_left():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x.flatten(2).transpose(1, 2)[:, :3])).mean(1)  # N,3,3: tokens, not features

    model, x = unsettle(Tokens()), torch.rand(2, 8, 2, 2)
    twin = FusedModel(model, x=x[:1])
    assert norms_left(twin) == 1
    agree(twin, model, x)


def test_layers_that_share_a_weight(x):
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(28), nn.Flatten()
    )
    model[2].weight = model[0].weight
    twin = FusedModel(unsettle(model), x=x[:1])
    assert norms_left(twin) == 0
    agree(twin, model, x)


def test_a_model_that_knows_its_input_size_needs_no_image(vgg, x):
    assert norms_left(FusedModel(vgg)) == 13
    twin = FusedModel(Classifier(vgg, classes="abcde", input_size=(3, 32, 32)))
    assert norms_left(twin) == 0
    agree(twin, vgg, x)


def test_a_fold_that_disagrees_leaves_the_twin_unfolded(vgg, x, monkeypatch):
    monkeypatch.setattr("robustcls.runtime.fused.folded_weights", lambda conv, norm: (conv.weight * 2, norm.bias))
    twin = make_search_model(vgg, "fp32", x)
    assert isinstance(twin, FusedModel)
    assert norms_left(twin) == 13
    agree(twin, vgg, x)


def test_folded_weights_are_rounded_once_and_count_as_autocast_counts_them(vgg, x):
    rounded, cast_each_time = (FusedModel(vgg, "bf16", x[:1]) for _ in range(2))
    layers = [m for m in rounded.copy.modules() if isinstance(m, nn.Conv2d)]
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}
    for layer in cast_each_time.copy.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=torch.float32), requires_grad=False)
    cast_each_time.refresh()
    with torch.no_grad():
        assert torch.equal(rounded(x), cast_each_time(x))


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler"
)


def small_classifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 5))
    return Classifier(net, classes="abcde", input_size=(3, 32, 32)).eval()


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_twin_takes_every_size_without_compiling_again(x):
    model = small_classifier()
    twin = make_search_model(model, "fp32", x, compiled=True)
    assert isinstance(twin, FusedModel)
    assert twin.forwards == 0
    labels = torch.arange(6) % 5
    before = None
    for size in (6, 5, 4, 3, 2):
        found = input_gradient(twin, x[:size], labels[:size])
        torch.testing.assert_close(found, input_gradient(model, x[:size], labels[:size]))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs > 0
        assert before in (None, graphs)
        before = graphs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_twin_that_cannot_be_compiled_is_refused(vgg, x, monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: setattr(self, "forward", no_compiler))
    with pytest.raises(InputError, match="cannot be compiled .*leave out `compile`"):
        make_search_model(vgg, "fp32", x, compiled=True)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_a_replayed_twin_gave_is_kept(x):
    """With CUDA graphs, the next replay overwrites the outputs. The CPU has no graphs, but runs the same code."""
    model = small_classifier()
    twin = FusedModel(model)
    twin.compile_copy(cuda_graphs=True)
    labels = torch.arange(6) % 5
    first = input_gradient(twin, x, labels)
    input_gradient(twin, 1 - x, labels)
    torch.testing.assert_close(first, input_gradient(model, x, labels))


def no_compiler(graph, inputs=None):
    raise RuntimeError("no C++ compiler here")


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def inside(model, backend):
    return nn.Sequential(torch.compile(model, backend=backend), nn.Identity())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("backend", [no_compiler, "eager", "inductor"])
@pytest.mark.parametrize("compiled", [whole, in_place, inside])
def test_compiled_models_are_judged_and_searched_as_they_were_written(compiled, backend, vgg, x):
    with torch.no_grad():
        expected = copy.deepcopy(vgg).eval()(x)
    model = compiled(vgg, backend)
    assert model.training
    search = make_search_model(model, "fp32", x)
    assert isinstance(search, FusedModel)
    assert norms_left(search) == 0
    assert model.training
    assert vgg.training
    with torch.no_grad():
        assert torch.equal(Counted(model.eval())(x), expected)
        torch.testing.assert_close(search(x), expected, rtol=1e-4, atol=1e-4)
    assert input_gradient(search, x, torch.zeros(6, dtype=torch.long)).abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [torch.jit.script, nn.DataParallel], ids=["script", "data parallel"])
def test_wrapped_models(wrap, vgg, x):
    with torch.no_grad():
        expected = copy.deepcopy(vgg).eval()(x)
    model = wrap(vgg)
    search = make_search_model(model, "fp32", x)
    assert isinstance(search, FusedModel)
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(search(x), expected, rtol=1e-3, atol=1e-3)
    assert input_gradient(search, x, torch.zeros(6, dtype=torch.long)).abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_twins_of_models_in_other_precision(dtype, vgg, x):
    model = vgg.to(dtype)
    with torch.no_grad(), frozen(model):
        search = make_search_model(model, "fp32", x)
        expected = model(x.to(dtype)).float()
        assert (search(x) - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}


def test_parameters_in_several_precisions(vgg, x):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = vgg[:-1], nn.Linear(64, 5).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).double())

    model = Mixed()
    search = make_search_model(model, "fp32", x)
    assert isinstance(search, FusedModel)
    with torch.no_grad():
        torch.testing.assert_close(search(x), model.eval()(x).float(), rtol=1e-3, atol=1e-3)


def test_a_model_without_weights_is_said():
    with pytest.raises(InputError, match="meta device"):
        FusedModel(nn.Linear(2, 2, device="meta"))


def test_images_and_weights_keep_their_layout(vgg, x):
    """The twin uses channels_last, but the weights of the model and the images keep their layout."""
    twin = FusedModel(vgg, x=x[:1])
    convolutions = [module for module in twin.copy.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    twin.refresh()
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    assert all(parameter.is_contiguous() for parameter in vgg.parameters())
    assert input_gradient(twin, x, torch.zeros(6, dtype=torch.long)).shape == x.shape
    assert x.is_contiguous()


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 4)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Forgetful(Locked):
    """A model whose copy computes something else."""

    scale = 1.0

    def __deepcopy__(self, memo):
        model = Forgetful()
        model.scale = 1.1
        return model

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Proud(Locked):
    """A model whose copy cannot run."""

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
    assert isinstance(search, FusedModel)
    assert (search.forwards, search.backwards) == (0, 0)
    assert vgg.training
    low = make_search_model(vgg, "bf16", x)
    assert isinstance(low, FusedModel)
    with torch.no_grad():
        assert low(x).dtype == torch.float32
        assert not torch.equal(low(x), search(x)), "the twin does not run in low precision"


@pytest.mark.parametrize("kind", [FusedModel, Counted])
def test_images_are_counted(kind, vgg, x):
    model = kind(vgg.eval())
    with torch.no_grad():
        model(x)
    assert (model.forwards, model.backwards) == (6, 0)
    input_gradient(model, x[:4], torch.zeros(4, dtype=torch.long))
    assert (model.forwards, model.backwards) == (10, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [FusedModel, Counted])
def test_models_of_other_precision_take_fp32_images(kind, dtype, x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).to(dtype)
    search = kind(model)
    assert search(x).dtype == torch.float32
    torch.testing.assert_close(search(x), model(x.to(dtype)).float())


@pytest.mark.parametrize("kind", [FusedModel, Counted])
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


class Root(nn.Module):
    """A network with an infinite gradient at black pixels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        return self.head(x.pow(0.5).flatten(1))


@pytest.mark.parametrize(
    "wrap", [Counted, FusedModel, lambda model: FusedModel(model, "bf16"), lambda model: FusedModel(model, "fp16")]
)
def test_gradients_come_without_poles_and_their_images_are_counted(wrap):
    """This holds for gradients taken by any code and in any precision."""
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp_min(0.1)
    x[1, 0, 0, 0] = x[3, 2] = 0
    model = wrap(Root().eval())
    images = x.requires_grad_()
    grad = torch.autograd.grad(model(images).logsumexp(1).sum(), images)[0]
    assert ((grad == 0) == (x == 0)).all()
    assert grad.isfinite().all()
    assert model.not_finite == 2
    assert model.odd.tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind", ["twin", "folded twin", "model", "channels-last model"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_lone_samples_gradient_is_that_in_company(kind, layout):
    """Pooling breaks ties in flat areas depending on the memory format, which is ambiguous for a single image."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if kind == "folded twin" else nn.Identity(), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    ).eval()  # fmt: skip
    x = torch.full((16, 3, 12, 12), 0.2)
    for i in range(16):
        x[i, :, i % 6 : i % 6 + 5, i // 4 : i // 4 + 5] = torch.rand(3, 1, 1)
    x, y = x.contiguous(memory_format=layout), torch.arange(16) % 4
    model = Counted(net.to(memory_format=torch.channels_last) if "last" in kind else net)
    tried = FusedModel(net, x=x[:1]) if "twin" in kind else model
    together = input_gradient(tried, x, y)
    alone = torch.cat([input_gradient(tried, x[i : i + 1], y[i : i + 1]) for i in range(16)])
    assert (alone - together).abs().max() < 1e-6 * max(1, together.abs().max().item())
    assert tried.forwards == tried.backwards == 32, "a single image is counted once"
