"""`robustcls.certify` by bounds, beside the distance to the boundary of a linear classifier."""

import json
import threading

import numpy as np
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.results.certified import Certified

DUAL = {"linf": 1, "l2": 2}


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def images(n=30):
    """Return images in the middle of the box, so that no radius below 0.2 reaches its edge."""
    return 0.4 + 0.2 * torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def distances(net, x, norm):
    """Return the distances to the nearest point of another class: min of (z_y - z_k) / |w_y - w_k|, in the dual norm."""
    weight, logits = net[1].weight.detach(), net(x).detach()
    found = []
    for z in logits:
        y = int(z.argmax())
        gaps = [((z[y] - z[k]) / (weight[y] - weight[k]).norm(p=DUAL[norm])).item() for k in range(3) if k != y]
        found.append(min(gaps))
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_radius_is_the_largest_of_the_grid_below_the_distance(norm):
    net, x = linear(), images()
    far = distances(net, x, norm)
    grid = sorted(far)[5:25:5]  # the next line moves them off the distances
    grid = [0.999 * radius for radius in grid]
    found = robustcls.certify(net, x, net(x).argmax(1), method="bounds", norm=norm, eps_grid=[0, *grid])
    expected = [max([radius for radius in grid if radius < one], default=0.0) for one in far]
    assert found.radius.tolist() == expected
    assert len(set(expected)) == 5
    for radius in (0, *grid):
        assert found.accuracy_at(radius) == sum(one >= radius for one in expected) / 30
    assert found.certified.all()
    record = found.record
    assert (record.method, record.norm, record.command) == ("bounds", norm, "robustcls.certify")
    assert [point.radius for point in record.curve] == [0, *grid]
    record.check()
    assert isinstance(record, Certified)
    assert "abstained" not in str(found)


def test_a_wrong_answer_is_certified_nowhere():
    net, x = linear(), images()
    right = net(x).argmax(1)
    y = right.clone()
    y[::3] = (y[::3] + 1) % 3
    found = robustcls.certify(net, x, y.numpy(), method="bounds", norm="linf", eps_grid="0,1/2550")
    assert not found.radius[::3].any()
    assert not found.certified[::3].any()
    assert found.predicted.equal(right)
    assert found.accuracy_at(0) == 20 / 30


def test_a_single_radius_may_be_a_number_and_a_dictionary_of_logits_is_taken():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear()

        def forward(self, x):
            return {"logits": self.net(x)}

    x = images(4)
    y = linear()(x).argmax(1)
    plain = robustcls.certify(linear(), x, y, method="bounds", norm="l2", eps_grid=0.001)
    with pytest.warns(UserWarning, match="logits"):
        other = robustcls.certify(Wrapped(), x, y, method="bounds", norm="l2", eps_grid=0.001)
    assert other.radius.equal(plain.radius)
    assert plain.radius.any()


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).train()
    net(images()).sum().backward()
    net[0].bias.requires_grad_(False)

    def state():
        tensors = {name: value.clone() for name, value in net.state_dict().items()}
        grads = [None if one.grad is None else one.grad.clone() for one in net.parameters()]
        flags = [one.requires_grad for one in net.parameters()], [one.training for one in net.modules()]
        same = [id(one) for one in (*net.parameters(), *net.buffers())]
        return tensors, grads, flags, same, torch.get_rng_state()

    before = state()
    robustcls.certify(net, images(6), torch.tensor([0, 1, 2, 0, 1, 2]), method="bounds", norm="linf", eps_grid="1/255")
    torch.testing.assert_close(state(), before, rtol=0, atol=0)


def test_a_run_that_was_cut_off_goes_on_to_the_same_result(tmp_path, monkeypatch):
    from robustcls.evaluation import certify_by_bounds

    monkeypatch.setattr(certify_by_bounds, "KEPT", 10)
    net, x = linear(), images()
    y = net(x).argmax(1)
    options = {"method": "bounds", "norm": "linf", "eps_grid": "0.001,0.01"}
    whole = robustcls.certify(net, x, y, **options).record.samples
    real, done = certify_by_bounds._largest, []

    def cut(*given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given)
        return real(*given)

    monkeypatch.setattr(certify_by_bounds, "_largest", cut)
    with pytest.raises(KeyboardInterrupt):
        robustcls.certify(net, x, y, resume=tmp_path / "kept", **options)
    done.clear()
    assert robustcls.certify(net, x, y, resume=tmp_path / "kept", **options).record.samples == whole
    assert len(done) == 1, "two of three parts were kept"
    assert not (tmp_path / "kept").exists()


BOUNDS = {"method": "bounds", "norm": "linf", "eps_grid": "1/255"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "bound"}, "unknown method 'bound': did you mean 'bounds'"),
        ({"method": "bounds"}, "give `norm` and `eps_grid`"),
        ({"method": "bounds", "norm": "linf"}, "give `norm` and `eps_grid`"),
        (BOUNDS | {"eps_grid": []}, "give `norm` and `eps_grid`"),
        (BOUNDS | {"eps_grid": "0"}, "give a radius above 0, such as `eps_grid=0,1/255,2/255`"),
        (BOUNDS | {"eps_grid": "1/255,x"}, "'x' is not a radius"),
        (BOUNDS | {"eps_grid": [8]}, "did you mean 8/255"),
        (BOUNDS | {"norm": "l1"}, "bounds do not know the norm l1"),
        (BOUNDS | {"norm": "l7"}, "unknown norm 'l7'"),
        (BOUNDS | {"sigma": 0.25}, "bounds have no noise"),
        (BOUNDS | {"n": 100}, "`n` is for smoothing"),
        (BOUNDS | {"precision": "bf16"}, "leave out `precision=bf16`"),
        (BOUNDS | {"draws": 100}, "unknown option 'draws'"),
        ({"sigma": 0.25, "n": 1e4}, r"n=10000\.0 is not a whole number: give one such as n=10000"),
        ({"sigma": 0.25, "n": 20.5}, r"n=20\.5 is not a whole number"),
        ({"sigma": 0.25, "n": "20"}, "n='20' is not a whole number: give one such as n=1000"),
        ({"sigma": 0.25, "n": True}, "n=True is not a whole number"),
        ({"sigma": 0.25, "n0": 10.5}, r"n0=10\.5 is not a whole number"),
        ({"sigma": 0.25, "alpha": "x"}, "alpha='x' is not a number"),
        ({"sigma": "0.25"}, "sigma='0.25' is not a number"),
        ({"sigma": True}, "sigma=True is not a number"),
        ({"sigma": 0.25, "norm": "linf"}, "`norm=linf` is not certified by Gaussian noise"),
    ],
)
def test_wrong_input_is_refused_in_one_line(options, said, tmp_path):
    with pytest.raises(InputError, match=said) as refused:
        robustcls.certify(linear(), images(2), torch.tensor([0, 1]), resume=tmp_path / "kept", **options)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.SiLU(), nn.Linear(12, 3)), "SiLU"),
        (robustcls.smoothed(linear(), sigma=0.25), "this model is random: leave out `method=bounds`"),
        ("net.pt", "is no torch.nn.Module"),
    ],
)
def test_a_model_that_cannot_be_bounded_is_refused(model, said):
    x = images(2)
    y = torch.tensor([0, 1]) if isinstance(model, str) else model(x).argmax(1)  # wrong answers are not bounded
    with pytest.raises(InputError, match=said):
        robustcls.certify(model, x, y, **BOUNDS)


def test_weights_in_low_precision_are_not_taken_for_fp32():
    x = images(2)
    with pytest.raises(InputError, match=r"weights are bfloat16, .* `model\.float\(\)`"):
        robustcls.certify(linear().bfloat16(), x, linear()(x).argmax(1), **BOUNDS)


def test_a_model_that_is_no_network_of_layers_is_refused_in_words():
    class Session(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock, self.net = threading.Lock(), linear()  # cannot be copied, like a session of ONNX Runtime

        def forward(self, x):
            return self.net(x)

    x = images(2)
    with pytest.raises(InputError, match="bounds need a network of PyTorch layers, and Session is none"):
        robustcls.certify(Session(), x, linear()(x).argmax(1), **BOUNDS)


def test_a_damaged_part_of_an_interrupted_run_is_said(tmp_path, monkeypatch):
    from robustcls.evaluation import certify_by_smoothing

    monkeypatch.setattr(certify_by_smoothing, "DRAWS_KEPT", 100)
    real, done = certify_by_smoothing.certify_all, []

    def cut(*given, **options):
        if done:
            raise KeyboardInterrupt
        done.append(given)
        return list(real(*given, **options))

    monkeypatch.setattr(certify_by_smoothing, "certify_all", cut)
    options = {"sigma": 0.1, "n": 100, "resume": tmp_path / "kept"}
    with pytest.raises(KeyboardInterrupt):
        robustcls.certify(linear(), images(), torch.zeros(len(images()), dtype=torch.long), **options)
    [part] = (tmp_path / "kept").glob("chunk*.pt")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match=r"chunk.*\.pt is damaged: start anew"):
        robustcls.certify(linear(), images(), torch.zeros(len(images()), dtype=torch.long), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigma": "a"}, "sigma='a' is not a number"),
        ({"sigma": 0.1, "draws": 2.5}, r"draws=2\.5 is not a whole number"),
        ({"sigma": 0.1, "draws": "2"}, "draws='2' is not a whole number"),
    ],
)
def test_a_smoothed_model_of_wrong_numbers_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        robustcls.smoothed(linear(), **options)


def test_whole_numbers_of_numpy_are_taken():
    net, x = linear(), images(3)
    found = robustcls.certify(net, x, net(x).argmax(1), sigma=np.float64(0.1), n=np.int64(50), n0=np.int32(10))
    assert (found.record.n, found.record.n0) == (50, 10)
    json.dumps([found.record.n, found.record.n0])


def test_smoothing_takes_the_radii_of_its_curve():
    net, x = linear(), images(3)
    y = net(x).argmax(1)
    found = robustcls.certify(net, x, y, sigma=0.1, n=50, n0=10, eps_grid=[0, 0.02])
    assert [point.radius for point in found.record.curve] == [0, 0.02]
    usual = robustcls.certify(net, x, y, sigma=0.1, n=50, n0=10)
    assert found.radius.equal(usual.radius)
    assert robustcls.certify(net, x, y, sigma=0.1, n=50, n0=10, eps_grid=[]).record.curve == usual.record.curve
    with pytest.raises(InputError, match="did you mean 'alpha'"):
        robustcls.certify(net, x, y, sigma=0.1, alfa=0.01)
