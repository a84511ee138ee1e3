"""The fp16 path of the folded copy, which only CUDA takes by itself: gradients that fp16 would lose are scaled."""

import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core.gradients import input_gradient
from robustcls.runtime.fused import FusedModel, scale_gradients


class RoundsBackward(torch.autograd.Function):
    """The identity, with gradients rounded to fp16, as on the fp16 units of a GPU."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.half().float()


class Confident(nn.Module):
    """A network whose first logit leads by given margins, so that gradients of cross-entropy are below fp16's least, 6e-8."""

    def __init__(self, margins, *, rounds):
        super().__init__()
        self.linear, self.margins, self.rounds = nn.Linear(16, 3), torch.tensor(margins), rounds

    def forward(self, x):
        logits = self.linear(x.flatten(1)) + self.margins[:, None] * torch.tensor([1.0, 0.0, 0.0])
        return RoundsBackward.apply(logits) if self.rounds else logits


def gradient_of(model, x, y, *, scaled):
    x = x.clone().requires_grad_()
    images = x * 1.0
    logits = model(images)
    if scaled:
        scale_gradients(images, logits)
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)[0]


def confident_pair():
    margins = [0.0, 25.0, 40.0, 3.0]
    net, exact = Confident(margins, rounds=True), Confident(margins, rounds=False)
    exact.load_state_dict(net.state_dict())
    return net, exact, torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long)


def test_gradients_that_fp16_would_lose_are_kept():
    net, exact, x, y = confident_pair()
    expected = gradient_of(exact, x, y, scaled=False)
    size = expected.flatten(1).norm(dim=1)
    assert size[0] > 1e-2
    assert 0 < size[2] < 1e-15 < size[1] < 1e-8
    lost = gradient_of(net, x, y, scaled=False)
    assert (lost[1:3] == 0).all()
    kept = gradient_of(net, x, y, scaled=True)
    for found, wanted in zip(kept, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0.01, atol=0.002 * wanted.abs().max().item())
    assert torch.equal(gradient_of(exact, x, y, scaled=True), expected)  # scaling by powers of two is exact


def test_a_sample_without_a_gradient_stays_without():
    net, _, x, y = confident_pair()
    with torch.no_grad():
        net.linear.weight.zero_()
    assert torch.equal(gradient_of(net, x, y, scaled=True), torch.zeros_like(x))


def test_the_twin_scales_in_fp16_alone():
    margins = [0.0, 18.0, 40.0, 3.0]
    y, x = torch.zeros(4, dtype=torch.long), torch.rand(4, 1, 4, 4)
    for precision, rounds in (("fp16", True), ("bf16", True), ("fp32", True)):
        net, exact = Confident(margins, rounds=rounds), Confident(margins, rounds=False)
        exact.load_state_dict(net.state_dict())
        found = input_gradient(FusedModel(net, precision), x, y).flatten(1)
        wanted = input_gradient(exact, x, y).flatten(1)
        cosines = F.cosine_similarity(found.double(), wanted.double(), eps=1e-60)
        assert (cosines > 0.99).tolist() == ([True] * 4 if precision == "fp16" else [True, False, False, True])
