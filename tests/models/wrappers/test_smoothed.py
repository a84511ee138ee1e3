import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.seeds import mix
from robustcls.models.wrappers.averaged import averaged_in, draws_of, restart, single_draw
from robustcls.models.wrappers.smoothed import smoothed
from robustcls.runtime.fused import Counted
from robustcls.runtime.search import make_search_model
from tests.helpers.eval_models import make_batch, make_net


def drawn(model, x, sigma, draws, seed):
    """Return the logits under explicit noise: draws,N,K."""
    noise = [torch.randn(x.shape, generator=torch.Generator().manual_seed(mix(seed, k))) for k in range(draws)]
    return torch.stack([model(x + sigma * one) for one in noise])


def test_logits_are_the_shares_of_votes_with_the_mean_softmax_as_one_more():
    net, (x, _) = make_net(), make_batch(8)
    model = smoothed(net, sigma=0.5, draws=9)
    model.restart(5)
    with torch.no_grad():
        found, each = model(x), drawn(net, x, 0.5, 9, 5)
    votes = torch.stack([(each.argmax(2) == k).sum(0) for k in range(4)], 1)
    assert len(votes.unique()) > 3
    torch.testing.assert_close(found.exp(), (votes + each.softmax(2).mean(0)) / 10)
    lead = votes.topk(2, dim=1).values
    clear = lead[:, 0] > lead[:, 1]
    assert torch.equal(found.argmax(1)[clear], votes.argmax(1)[clear])


def test_the_gradient_is_that_of_smoothadv():
    """It is that of -log of the mean probability of the label under the same noise, up to a factor for each sample."""
    net, (x, y) = make_net(), make_batch(8)
    model = smoothed(net, sigma=0.5, draws=9)
    model.restart(5)
    found = input_gradient(model, x, y).flatten(1)
    seen = x.clone().requires_grad_()
    mean = drawn(net, seen, 0.5, 9, 5).softmax(2).mean(0)
    expected = torch.autograd.grad(-mean.gather(1, y[:, None]).log().sum(), seen)[0].flatten(1)
    cosine = nn.functional.cosine_similarity(found, expected)
    torch.testing.assert_close(cosine, torch.ones(8))


def test_classes_without_a_vote_have_finite_logits_and_gradients():
    net, (x, y) = make_net(), make_batch(4)
    with torch.no_grad():
        net.head.weight.mul_(1000)
    model = smoothed(net, sigma=0.1, draws=2)
    assert model(x).isfinite().all()
    assert input_gradient(model, x, y, cross_entropy).isfinite().all()


def test_it_is_a_random_model_that_is_averaged_already():
    net, (x, _) = make_net(), make_batch(4)
    model = robustcls.smoothed(net, sigma=0.5, draws=3)
    assert averaged_in(model) == [model]
    assert draws_of(model) == 3
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    restart(model, 1)
    again = model(x)
    restart(model, 1)
    assert torch.equal(model(x), again)
    with single_draw(model):
        assert draws_of(model) == 1
        restart(model, 2)
        assert torch.equal(model(x).argmax(1), drawn(net, x, 0.5, 1, mix(2, 0))[0].argmax(1))
    assert isinstance(make_search_model(model, "fp32", x), Counted)
    assert model.title == "smoothed(Net, sigma=0.5, draws=3)"


def test_it_is_evaluated_with_eot_as_it_stands():
    net, (x, y) = make_net(), make_batch(12)
    model = smoothed(net, sigma=0.1, draws=3)
    found = robustcls.evaluate(model, x, y, "l2:0.2", attacks="pgd(steps=2)")
    assert found.under_noise.draws == 3
    assert next(one for one in found.checks if one.id == "random_output").status == "pass"
    assert found.attacks[0].forwards >= 3 * 2 * found.clean.correct


class OneLogit(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: smoothed(make_net(), sigma=0), "noise without spread"),
        (lambda: smoothed(make_net(), sigma=0.25, draws=0), "needs 1 draw or more"),
        (lambda: smoothed("ckpt.pt", sigma=0.25), "a wrapper around nothing"),
        (lambda: smoothed(OneLogit(), sigma=0.25)(torch.rand(2, 3, 4, 4)), r"gives \(2, 1\)"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
