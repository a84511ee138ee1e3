"""Convolutions of small images as matrix products: values, gradients, and what is left unchanged."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from robustcls.runtime import small_images
from robustcls.runtime.small_images import small_convolutions
from tests.helpers.tiny_run import brighter, first_batch, named_gradients

CPU = torch.device("cpu")
# Height, width, channels in and out: images no larger than the window, small images, and one with many channels.
SHAPES = [(1, 1, 3, 5), (2, 2, 3, 5), (1, 2, 4, 4), (2, 1, 4, 4), (3, 2, 4, 8), (4, 4, 8, 3), (8, 8, 128, 128)]


def operands(shape, dtype=torch.float32, count=6, layout=torch.channels_last):
    height, width, channels, outputs = shape
    generator = torch.Generator().manual_seed(height * width + channels)
    x = torch.randn(count, channels, height, width, generator=generator, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator, dtype=dtype).to(memory_format=layout)
    bias = torch.randn(outputs, generator=generator, dtype=dtype)
    return [one.requires_grad_() for one in (x, weight, bias)]


def by_hand(x, weight, bias):
    """Return the convolution with padding 1, summed over the taps."""
    padded = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[2:]
    taps = [
        torch.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps) + bias.view(1, -1, 1, 1)


@pytest.fixture
def calls(monkeypatch):
    """Return a list that receives an entry for each convolution that runs as a product."""
    counted = []
    apply = small_images._Convolution.apply
    monkeypatch.setattr(small_images._Convolution, "apply", lambda *args: (counted.append(args), apply(*args))[1])
    return counted


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_convolution(shape, dtype, layout):
    ours = operands(shape, dtype, layout=layout)
    exact = [one.detach().double().requires_grad_() for one in ours]
    out, expected = small_images._Convolution.apply(*ours), by_hand(*exact)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2**-8}[dtype]
    results = [out, *torch.autograd.grad(out, ours, direction)]
    references = [expected, *torch.autograd.grad(expected, exact, direction.double())]
    assert out.is_contiguous() == F.conv2d(*ours, padding=1).is_contiguous()
    for result, reference in zip(results, references, strict=True):
        assert result.dtype == dtype
        assert result.shape == reference.shape
        assert (result.double() - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (1, 2, 2, 2), (3, 3, 2, 2)])
def test_gradients_of_gradients(shape, many, monkeypatch):
    if many:  # as in 16 bits, but in double precision
        monkeypatch.setattr(small_images, "_weight_by_product", lambda x, weight: True)
    inputs = operands(shape, torch.float64, count=2)
    assert torch.autograd.gradcheck(small_images._Convolution.apply, inputs)
    assert torch.autograd.gradgradcheck(small_images._Convolution.apply, inputs)
    of_images = lambda x: small_images._Convolution.apply(x, inputs[1].detach(), None) ** 2  # noqa: E731
    assert torch.autograd.gradcheck(of_images, inputs[:1])
    assert torch.autograd.gradgradcheck(of_images, inputs[:1])


def net(seed=0):
    """Return a network from 8x8 down to 1x1, with layers that must run unchanged: stride, groups, dilation, 1x1 kernel."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding="same"), nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def pass_through(model, x, y, device=CPU, *, products, precision="fp32"):
    x = x.clone().requires_grad_()
    with (
        small_convolutions(device) if products else small_convolutions(torch.device("meta")),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
    loss.backward()
    return [logits.detach(), x.grad, *(one.grad for one in model.parameters())]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("precision", "expected", "share"), [("fp32", 2, 1e-5), ("bf16", 3, 0.04)])
def test_a_network_in_training(precision, expected, share, layout, calls):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(16, 3, 8, 8, generator=generator), torch.randint(4, (16,), generator=generator)
    plain, other = net().to(memory_format=layout), net().to(memory_format=layout)
    exact = pass_through(net().double(), x.double(), y, products=False)
    theirs = pass_through(plain, x, y, products=False, precision=precision)
    assert not calls
    ours = pass_through(other, x, y, products=True, precision=precision)
    assert len(calls) == expected
    for result, reference, truth in zip(ours, theirs, exact, strict=True):
        assert result.dtype == reference.dtype
        ours_off, theirs_off = [(one.double() - truth).norm() / truth.norm() for one in (result, reference)]
        assert ours_off <= max(1.5 * theirs_off, share)
    for (name, one), two in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(one, two, rtol=share, atol=share), name


def test_the_same_bits_each_time():
    x, y = torch.rand(16, 3, 8, 8), torch.randint(4, (16,))
    first, second = (pass_through(net(), x, y, products=True, precision="bf16") for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_what_is_no_small_convolution_of_this_kind_runs_as_it_is(calls):
    x, w, large = torch.randn(2, 4, 2, 2), torch.randn(4, 4, 3, 3), torch.randn(2, 4, 16, 16)
    left_alone = [
        lambda: F.conv2d(x, w, padding=2),
        lambda: F.conv2d(x, w, padding=(1, 2)),
        lambda: F.conv2d(x, w, stride=2, padding=1),
        lambda: F.conv2d(x, w, stride=(1, 2), padding=1),
        lambda: F.conv2d(x, w, padding=2, dilation=2),
        lambda: F.conv2d(x, w[:, :2], padding=1, groups=2),
        lambda: F.conv2d(x, w[:, :, :1, :1], padding=1),
        lambda: F.conv2d(x[0], w, padding=1),
        lambda: F.conv2d(x[:0], w, padding=1),
        lambda: F.conv2d(large, w.clone().requires_grad_(), padding=1),
        lambda: torch.func.grad(lambda z: F.conv2d(z, w, padding=1).sum())(x),
        lambda: torch.func.vmap(lambda z: F.conv2d(z[None], w, padding=1))(x),
    ]
    for run in left_alone:
        expected = run()
        with small_convolutions(CPU):
            assert torch.equal(run(), expected)
    assert not calls
    with small_convolutions(CPU):
        assert torch.allclose(F.conv2d(input=x, weight=w, padding=1), by_hand(x, w, torch.zeros(4)), atol=1e-5)
        with pytest.raises(RuntimeError):
            F.conv2d(x, w.double(), padding=1)
        with pytest.raises(RuntimeError):
            F.conv2d(x, torch.randn(4, 5, 3, 3), padding=1)
    assert len(calls) == 1


def test_nothing_changes_on_other_devices(calls):
    with small_convolutions(torch.device("cuda")):
        F.conv2d(torch.randn(2, 4, 2, 2), torch.randn(4, 4, 3, 3), padding=1)
    assert not calls


@pytest.mark.parametrize("frozen", [False, True])
def test_a_part_that_is_passed_again_on_the_way_back(frozen, calls):
    model, plain, x, y = net(), net(), torch.rand(16, 3, 8, 8), torch.randint(4, (16,))
    for each in (model, plain):
        each[9].weight.requires_grad_(not frozen)
    F.cross_entropy(plain(x), y).backward()
    with small_convolutions(CPU):
        loss = F.cross_entropy(checkpoint(model, x, use_reentrant=False), y)
    loss.backward()
    assert len(calls) == 2
    for one, reference in zip(model.parameters(), plain.parameters(), strict=True):
        if reference.requires_grad:
            assert torch.allclose(one.grad, reference.grad, atol=1e-5)


def test_what_is_compiled():
    x, w = torch.randn(2, 4, 2, 2), torch.randn(4, 4, 3, 3)
    compiled = torch.compile(lambda x: F.conv2d(x, w, padding=1), backend="eager")
    with small_convolutions(CPU):
        assert torch.allclose(compiled(x), by_hand(x, w, torch.zeros(4)), atol=1e-5)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", 6), ("bf16", 7)])
def test_an_update_of_training_has_the_gradients_of_a_plain_loop(precision, expected, make_run, calls):
    run = make_run(arch="vgg11(width=0.0625)", augment="none", precision=precision)
    x, y = first_batch(run)

    def plain(precision):
        model = copy.deepcopy(run.state.model).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(brighter(None, x, y)), y)
        loss.backward()
        return named_gradients(model)

    exact, theirs = plain("fp32"), plain(precision)
    run.state.train_mode()
    run.state.gradient(x, y, brighter)
    assert len(calls) == expected  # on 2x2 and 1x1 pixels; in bf16 on 4x4, too
    for name, truth in exact.items():
        ours_off, theirs_off = (
            (one - truth).norm() for one in (run.state.model.get_parameter(name).grad, theirs[name])
        )
        assert ours_off <= max(1.5 * theirs_off, 1e-5), name
