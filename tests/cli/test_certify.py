"""`robustcls certify`."""

import json
from pathlib import Path

import pytest
import torch

import robustcls
from robustcls.evaluation.certify import smoothed_spec
from robustcls.models.checkpoint import build
from robustcls.results.bracket import why_apart
from robustcls.results.records import Evaluation

HERE = "tests.helpers.defences"
DATA = ("--data", "digits(size=8)", "-n", 20, "--device", "cpu")
SHORT = (*DATA, "--draws", 100, "--select-draws", 20)
LINEAR = f"smoothed({HERE}:linear, sigma=0.25)"


BOUNDS = ("--method", "bounds", "--eps-grid")


def certify(cli, model, *more):
    return cli("certify", "--model", model, *(DATA if "bounds" in more else SHORT), *more)


def test_it_writes_an_evaluation_without_attacks(cli):
    found = certify(cli, f"{HERE}:linear", "--sigma", 0.25, "--eps-grid", "0,0.1,0.9")
    assert found.status == 0, found.err
    evaluation = Evaluation.load("evaluation-smoothed.json")
    record = evaluation.certified
    assert evaluation.model.name == LINEAR
    assert (evaluation.attacks, evaluation.robust.correct) == ([], evaluation.clean.correct)
    assert evaluation.robust.kind == "clean accuracy: no attack was run"
    assert (record.method, record.norm, record.sigma, record.n, record.n0) == ("smoothing", "l2", 0.25, 100, 20)
    assert [point.radius for point in record.curve] == [0, 0.1, 0.9]
    assert 0 < record.curve[1].correct <= record.curve[0].correct <= evaluation.clean.correct
    assert "at 0.9 the curve is 0" in " ".join(found.err.split())
    assert f"{record.curve[1].accuracy:.1%}" in found.out
    assert "threat" not in found.err
    assert cli("gate", "evaluation-smoothed.json", "--min-robust", 0.01).out.startswith("INCONCLUSIVE")
    page = cli("report", "evaluation-smoothed.json", "--out", "report.html")
    assert page.status == 0, page.err


def test_the_same_command_gives_the_same_and_another_name_of_the_model_too(cli):
    assert certify(cli, f"{HERE}:linear", "--sigma", 0.25, "--out", "a.json").status == 0
    assert certify(cli, LINEAR, "--out", "b.json", "--batch-size", 7).status == 0
    first, second = (Evaluation.load(name).certified for name in ("a.json", "b.json"))
    assert first.samples == second.samples
    assert certify(cli, LINEAR, "--out", "c.json", "--seed", 1).status == 0
    assert Evaluation.load("c.json").certified.samples != first.samples


def test_certificates_are_added_beside_attacks_on_the_same_smoothed_model(cli):
    attack = ("--attack", "pgd(steps=2)", "--norm", "l2", "--eps", 0.2)
    model = LINEAR.replace(")", ", draws=4)")
    attacked = cli("attack", "--model", model, *DATA, *attack, "--out", "both.json")
    assert attacked.status == 0, attacked.err
    before = Evaluation.load("both.json")
    found = certify(cli, LINEAR, "--out", "both.json")
    assert found.status == 0, found.err
    assert "added to both.json" in " ".join(found.err.split())
    both = Evaluation.load("both.json")
    assert (both.attacks, both.robust, both.samples) == (before.attacks, before.robust, before.samples)
    assert len(both.certified.samples) == 20
    again = cli("attack", "--model", model, *DATA, *attack, "--out", "both.json")
    assert again.status == 0, again.err


def test_a_lower_bound_is_never_put_beside_another_models_upper_bound(cli):
    attack = ("--attack", "fgsm", "--norm", "l2", "--eps", 0.2)
    assert cli("attack", "--model", f"{HERE}:linear", *DATA, *attack, "--out", "base.json").status == 0
    before = Path("base.json").read_text()
    for sigma in ((), ("--sigma", 0.25)):
        model = f"{HERE}:linear" if sigma else LINEAR
        found = certify(cli, model, *sigma, "--out", "base.json")
        assert found.status == 2
        assert f"base.json is of {HERE}:linear, and certified is {LINEAR}" in found.err
    assert Path("base.json").read_text() == before
    assert certify(cli, LINEAR, "--out", "smooth.json").status == 0
    other = certify(cli, f"{HERE}:linear", "--sigma", 0.5, "--out", "smooth.json")
    assert "certified is smoothed" in other.err
    fewer = cli("certify", "--model", LINEAR, *DATA[:2], "-n", 10, "--draws", 100, "--out", "smooth.json")
    assert "is on other samples" in fewer.err
    linf = cli("attack", "--model", LINEAR, *DATA, "--attack", "fgsm", "--eps", 0.1, "--out", "linf.json")
    assert linf.status == 0, linf.err
    assert "is about attacks in linf" in certify(cli, LINEAR, "--out", "linf.json").err


def test_the_same_weights_read_in_another_way_are_another_model(cli, tmp_path):
    weights, arch = tmp_path / "net.pt", "cnn4(width=0.1)"
    torch.manual_seed(0)
    torch.save(build(arch, classes=tuple("0123456789"), input_size=(1, 8, 8)).net.state_dict(), weights)
    source = ("--model", weights, "--arch", arch, *DATA)
    grid = (*BOUNDS, "0,0.002", "--norm", "linf")
    attack = ("--attack", "fgsm", "--eps", 0.002)
    assert cli("certify", *source, "--mean", 0.3, "--std", 0.4, *grid, "--out", "a.json").status == 0
    found = cli("attack", *source, "--mean", 0.3, "--std", 0.5, *attack, "--out", "a.json")
    assert found.status == 0, found.err
    assert "are not kept beside the attacks" in " ".join(found.err.split())
    assert Evaluation.load("a.json").certified is None
    refused = cli("certify", *source, "--mean", 0.3, "--std", 0.4, *grid, "--out", "a.json")
    assert refused.status == 2
    assert "std 0.5" in refused.err
    assert "std 0.4" in refused.err


def test_code_that_was_edited_in_between_is_another_model(cli, monkeypatch):
    model, grid, attack = f"{HERE}:scaled", (*BOUNDS, "0,0.002", "--norm", "linf"), ("--attack", "fgsm", "--eps", 0.002)
    monkeypatch.setattr("tests.helpers.defences.SCALE", 1.0)
    assert cli("certify", "--model", model, *DATA, *grid, "--out", "a.json").status == 0
    monkeypatch.setattr("tests.helpers.defences.SCALE", 0.5)
    found = cli("attack", "--model", model, *DATA, *attack, "--out", "a.json")
    assert "same weights and other outputs" in " ".join(found.err.split())
    assert Evaluation.load("a.json").certified is None
    monkeypatch.setattr("tests.helpers.defences.SCALE", -1.0)
    refused = cli("certify", "--model", model, *DATA, *grid, "--out", "a.json")
    assert refused.status == 2
    assert "predictions differ on" in " ".join(refused.err.split())


def test_a_long_sigma_is_the_same_in_name_and_certificate(cli):
    sigma = 32 / 255
    model = f"smoothed({HERE}:linear, sigma={sigma})"
    assert certify(cli, f"{HERE}:linear", "--sigma", sigma, "--out", "a.json").status == 0
    attack = ("--norm", "l2", "--eps", 0.05, "--attack", "fgsm")
    assert cli("attack", "--model", model, *DATA, *attack, "--out", "a.json").status == 0
    both = Evaluation.load("a.json")
    assert (both.model.name, both.certified.sigma) == (model, sigma)
    assert why_apart(both) == ""


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_stand_beside_attacks_on_the_model_itself(cli, norm):
    """For a linear network, a certificate is at least margin / |w_y - w_k| in the dual norm, and no attack contradicts it."""
    model, radii = f"{HERE}:linear", (0.01, 0.03, 0.1) if norm == "linf" else (0.03, 0.2, 0.5)
    attacked = cli(
        "attack", "--model", model, *DATA, "--attack", "pgd", "--norm", norm, "--eps", 0.03, "--out", "both.json"
    )
    assert attacked.status == 0, attacked.err
    grid = ",".join(map(str, (0, *radii)))
    found = cli("certify", "--model", model, *DATA, *BOUNDS, grid, "--norm", norm, "--out", "both.json")
    assert found.status == 0, found.err
    assert all(len(line) <= 80 for line in found.out.splitlines())
    both = Evaluation.load("both.json")
    record = both.certified
    assert (record.method, record.norm, both.threat.norm, len(both.attacks)) == ("bounds", norm, norm, 1)
    assert [point.radius for point in record.curve] == [0, *radii]
    assert record.curve[0].correct == both.clean.correct
    broken = {one.index for one in both.samples if one.broken_by}
    assert not broken & {one.index for one in record.samples if one.radius >= 0.03}
    net = robustcls.load(model)
    x, y = robustcls.load_data("digits(size=8)", n=20)
    w = next(p for p in net.parameters() if p.dim() == 2).detach()
    z = net(x).detach()
    for place, sample in enumerate(record.samples):
        others = [k for k in range(10) if k != y[place]]
        gaps = torch.stack([z[place, y[place]] - z[place, k] for k in others])
        slopes = torch.stack([(w[y[place]] - w[k]).norm(p=1 if norm == "linf" else 2) for k in others])
        least = (gaps / slopes).min().item()  # without the box, which can only increase it
        assert sample.radius >= max((r for r in radii if r < 0.999 * least), default=0)
    assert len({one.radius for one in record.samples}) > 2
    again = robustcls.certify(net, x, y, method="bounds", norm=norm, eps_grid=grid)
    assert again.radius.tolist() == [one.radius for one in record.samples], "the Python API gives the same radii"
    assert again.record.curve == record.curve


def test_bounds_that_were_interrupted_go_on(cli, monkeypatch):
    from robustcls.evaluation import certify_by_bounds

    arguments = ("certify", "--model", f"{HERE}:linear", *DATA, *BOUNDS, "0.001,0.01", "--norm", "linf")
    assert cli(*arguments, "--out", "whole.json").status == 0
    monkeypatch.setattr(certify_by_bounds, "KEPT", 5)
    real, done = certify_by_bounds._largest, []

    def cut(*given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given[1])
        return real(*given)

    monkeypatch.setattr(certify_by_bounds, "_largest", cut)
    assert cli(*arguments, "--out", "cut.json").status == 130
    done.clear()
    assert cli(*arguments, "--out", "cut.json", "--resume").status == 0
    assert len(done) == 2, "two of four parts were kept"
    one, two = (Evaluation.load(name).certified.samples for name in ("whole.json", "cut.json"))
    assert one == two


def test_an_attack_does_not_throw_certificates_away(cli):
    assert certify(cli, LINEAR).status == 0
    attack = ("--attack", "fgsm", "--norm", "l2", "--eps", 0.2)
    before = Evaluation.load("evaluation-smoothed.json").certified
    found = cli("attack", "--model", LINEAR, *DATA, *attack)
    assert found.status == 0, found.err
    assert not Path("evaluation-smoothed-earlier.json").exists(), "nothing was overwritten, so no copy is kept"
    both = Evaluation.load("evaluation-smoothed.json")
    assert both.certified == before
    assert len(both.attacks) == 1
    other = cli("attack", "--model", LINEAR, *DATA[:2], "-n", 10, *DATA[4:], *attack)
    assert other.status == 0, other.err
    assert Evaluation.load("evaluation-smoothed-earlier.json").certified == before


def test_a_run_that_was_interrupted_goes_on_to_the_same_result(cli, monkeypatch):
    from robustcls.evaluation import certify_by_smoothing

    assert certify(cli, LINEAR, "--out", "whole.json").status == 0
    monkeypatch.setattr(certify_by_smoothing, "DRAWS_KEPT", 500)
    real, done = certify_by_smoothing.certify_all, []

    def cut(*arguments, **options):
        for one in real(*arguments, **options):
            if len(done) == 12:
                raise KeyboardInterrupt
            done.append(one)
            yield one

    monkeypatch.setattr(certify_by_smoothing, "certify_all", cut)
    found = certify(cli, LINEAR, "--out", "cut.json")
    assert found.status == 130
    assert "--resume goes on from here" in " ".join(found.err.split())
    done.clear()
    other = certify(cli, LINEAR, "--out", "cut.json", "--resume", "--seed", 1)
    assert other.status == 2
    assert "another seed" in other.err
    assert certify(cli, LINEAR, "--out", "cut.json", "--resume").status == 0
    assert len(done) == 10, "two of four files were kept"
    one, two = (json.loads(Path(name).read_text())["certified"]["samples"] for name in ("whole.json", "cut.json"))
    assert one == two


@pytest.mark.slow
def test_the_sigma_of_training_is_taken_from_the_checkpoint(cli, tmp_path):
    train = ("train", "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--limit-train", 40, "--epochs", 1)
    noisy = ("--adv", "none", "--augment", "gaussian(sigma=0.125)", "--quiet")
    made = cli(*train, *noisy, "--out", "run")
    assert made.status == 0, made.err
    found = cli("certify", "--model", "run/ckpt.pt", "-n", 5, "--draws", 20, "--device", "cpu")
    assert found.status == 0, found.err
    assert "sigma 0.125, that of the checkpoint's training" in " ".join(found.err.split())
    assert Evaluation.load("run/evaluation-smoothed.json").certified.sigma == 0.125
    for objective, sigma in (("smooth_adv(sigma=0.5, draws=1)", 0.5), ("smooth_adv(draws=1)", 0.25)):
        attacked = ("--adv", "pgd(steps=1)", "--norm", "l2", "--eps", 0.1, "--augment", "none", "--quiet")
        assert cli(*train, "--objective", objective, *attacked, "--out", f"run{sigma}").status == 0
        assert smoothed_spec(f"run{sigma}/ckpt.pt", None)[1] == sigma
    wrong = cli(*train, "--adv", "pgd(steps=1)", *noisy[2:], "--out", "other")
    assert wrong.status == 2
    assert "which would cut off the noise" in wrong.err


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        (f"{HERE}:linear", (), "give --sigma"),
        (f"{HERE}:linear", ("--sigma", 0), "noise without spread proves nothing"),
        (f"{HERE}:linear", ("--sigma", 0.25, "--norm", "linf"), "--norm linf is not certified by Gaussian noise"),
        (f"{HERE}:linear", ("--sigma", 0.25, "--draws", 9), "9 draws cannot certify anything at alpha 0.001"),
        (f"{HERE}:linear", ("--sigma", 0.25, "--select-draws", 0), "0 draws cannot choose a class"),
        (f"{HERE}:linear", ("--sigma", 0.25, "--alpha", 1), "is not a valid probability of error"),
        (f"{HERE}:linear", ("--sigma", 0.25, "--eps-grid", "0,x"), "x"),
        (LINEAR, ("--sigma", 0.5), "smoothed with sigma 0.25, and --sigma 0.5 was given"),
        (f"{HERE}:noisy", ("--sigma", 0.25), "the model is itself random"),
        (f"averaged({LINEAR}, draws=2)", ("--sigma", 0.25), "the model is itself random"),
        (f"smoothed({LINEAR}, sigma=0.25)", (), "the model is itself random"),
        (f"{HERE}:linear", ("--method", "bounds", "--sigma", 0.25), "bounds have no noise"),
        *(
            (
                f"{HERE}:linear",
                (*BOUNDS, "0.1", f"--{name}", value),
                f"--{name} is for smoothing, and bounds have no draws",
            )
            for name, value in (("draws", 1000), ("select-draws", 10), ("alpha", 0.4))
        ),
        (f"{HERE}:linear", ("--method", "bounds", "--norm", "l2"), "norm l2 has no radii here: give --eps-grid"),
        (f"{HERE}:linear", (*BOUNDS, "0"), "give a radius above 0, such as --eps-grid 0,1/255,2/255"),
        (f"{HERE}:linear", (*BOUNDS, "0.1", "--norm", "l1"), "bounds do not know the norm l1"),
        (f"{HERE}:linear", (*BOUNDS, "0.1", "--precision", "bf16"), "leave out --precision bf16"),
        (LINEAR, (*BOUNDS, "0.1"), "this model is random: leave out --method bounds"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(model, more, said, cli):
    found = certify(cli, model, *more, "--quiet", "--out", "out.json")
    assert found.status == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not Path("out.json").exists()
