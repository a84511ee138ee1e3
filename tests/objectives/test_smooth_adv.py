import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from tests.helpers.eval_models import make_batch, make_net

SIGMA, DRAWS = 0.3, 3


def test_it_is_the_papers_formula_under_the_noise_that_the_attack_saw():
    net, (x, y) = make_net(), make_batch(10)
    x_adv, asked = (x + 0.1).clamp(0, 1), []

    def attack(model, images, labels, *, through):
        model = through(model)
        asked.append((model(images).detach(), input_gradient(model, images, labels)))
        return x_adv

    torch.manual_seed(5)
    loss = plugins.load("objective", f"smooth_adv(sigma={SIGMA}, draws={DRAWS})")(net, x, y, attack)
    torch.manual_seed(5)
    noise = [SIGMA * torch.randn(x.shape) for _ in range(DRAWS)]
    [(logits, gradient)] = asked
    seen = x.clone().requires_grad_()
    mean = sum(net(seen + one).softmax(1) for one in noise) / DRAWS
    torch.testing.assert_close(logits.exp(), mean.detach())
    expected = torch.autograd.grad(-mean.gather(1, y[:, None]).log().sum(), seen)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    under = [net(x_adv + one).softmax(1).gather(1, y[:, None]).log().mean() for one in noise]
    assert loss.total.item() == pytest.approx(-sum(under).item() / DRAWS, abs=1e-5)
    assert loss.seen == "adversarial"


@pytest.mark.parametrize("options", ["sigma=0", "draws=0"])
def test_no_noise_is_refused(options):
    net, (x, y) = make_net(), make_batch(4)
    with pytest.raises(InputError, match="give a sigma above 0, and 1 draw or more"):
        plugins.load("objective", f"smooth_adv({options})")(net, x, y, lambda *_, **__: x)
