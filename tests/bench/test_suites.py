"""The benchmark counts operations correctly, reports medians over rounds, and gives failures a row."""

import pytest
import torch

from robustcls.bench import suites
from robustcls.bench.attacking import agreement
from robustcls.bench.limits import forward_flops
from robustcls.bench.training import update_flops
from robustcls.cli.bench_tables import render
from robustcls.cli.console import table
from robustcls.data.splits import choose, load_split
from robustcls.models.checkpoint import build

TASK = {
    "arch": "vgg16(width=0.05)", "norm": "linf", "eps": "0.1", "batch_size": 32, "device": "cpu", "precision": "fp32",
    "seed": 0, "updates": 6,
}  # fmt: skip


def test_forward_flops_of_a_convolution_by_hand():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 5))
    assert forward_flops(model, (3, 8, 8)) == 2 * (8 * 8 * 8 * 3 * 9) + 2 * (8 * 64 * 5)


@pytest.fixture(scope="module")
def images():
    return choose(load_split("digits", "train"), 64)


@pytest.mark.parametrize(
    ("workload", "passes"),
    [
        ("clean", 3), ("fgsm_rs", 2 + 3), ("pgd3", 3 * 2 + 3),
        ("trades3", 1 + 3 * 2 + 2 * 3),  # the clean prediction, the attack, and an update on two batches
    ],
)  # fmt: skip
def test_operations_of_an_update_are_its_passes(workload, passes, images):
    size = images.pixels.shape[1:]
    forward = forward_flops(build(TASK["arch"], classes=images.classes, input_size=size), size)
    counted = update_flops(workload, images, TASK) / forward
    # An update computes no gradients of the images, and for clean images none in the first layer, hence slightly fewer.
    assert passes - 0.5 < counted <= passes + 0.01


def test_everything_is_measured_once_a_round_by_turns():
    order = []

    def measure(name):
        order.append(name)
        return {"images_per_second": float(len(order)), "precision": "fp32"}

    found = suites.by_turns(["a", "b"], 3, measure, lambda _: None)
    assert order == ["a", "b"] * 3
    assert suites._row(found["b"]) == {"images_per_second": 4.0, "precision": "fp32"}


def test_the_order_alternates_where_that_is_asked():
    order = []
    found = suites.by_turns(["a", "b", "c"], 3, lambda name: order.append(name) or len(order), lambda _: None, True)
    assert "".join(order) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_number_that_a_round_lacks_is_the_median_of_the_others():
    rounds = [{"p99_ms": value, "rate": 1.0, "precision": "fp32"} for value in (None, 3.0, 5.0)]
    assert suites._row(rounds) == {"p99_ms": 4.0, "rate": 1.0, "precision": "fp32"}


def test_a_measurement_that_fails_is_a_row_with_its_error():
    def fail():
        raise RuntimeError("out of memory:\nTried to allocate")

    failed = suites.attempt(fail)
    assert failed == {"error": "RuntimeError: out of memory: Tried to allocate"}
    done = {"images_per_second": 2.0, "precision": "fp32"}
    assert suites._row([failed, done]) == done
    rows = {"pgd3": done, "pgd3, compiled": suites._row([failed])}
    result = {"device": "d", "matrix_rates": {"fp32": 1e9}, "suites": {"train": {"about": "training", "rows": rows}}}
    shown = render(result, table)
    assert "failed" in shown
    assert "pgd3, compiled: RuntimeError: out of memory" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_ways_of_computing_agree_or_not():
    exact = {"robust_accuracy": 0.5, "seconds": 1.0}
    near, far = exact | {"robust_accuracy": 0.4971}, exact | {"robust_accuracy": 0.504}
    assert agreement(exact, {"near": near}, 1000)["status"] == "pass"
    assert agreement(exact, {"near": near, "far": far}, 1000)["status"] == "fail"
    assert agreement(exact, {"near": near}, 300)["status"] == "not_run"
    assert agreement(exact, {"near": {"error": "no"}}, 1000)["status"] == "not_run"
    assert agreement({"error": "no"}, {"near": near}, 1000)["status"] == "not_run"


@pytest.mark.slow
def test_what_runs_is_measured_in_turns_and_beside_eager_pytorch(images, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from robustcls.bench import deploying

    monkeypatch.setattr(deploying, "LIMITS", {"most": 2, "least": 2, "seconds": 1.0})
    model = build("vgg11(width=0.25)", classes=images.classes, input_size=images.pixels.shape[1:])
    said = []
    variants = deploying.variants_of(model, *images.batch(), tmp_path, said.append)
    pruned = [] if said else ["pruned ORT fp32", "pruned ORT int8"]
    assert list(variants) == ["eager torch", "folded torch", "ORT fp32", "ORT int8", *pruned]
    rows = {name: measure() for name, measure in variants.items()}
    deploying.add_ratios(rows)
    for name, row in rows.items():
        assert row["of_eager"] == row["p50_ms_1"] / rows["eager torch"]["p50_ms_1"]
        assert row["images_per_second"] == 32_000 / row["p50_ms_32"]
        assert all(row[f"p50_ms_{batch}"] <= row[f"p99_ms_{batch}"] for batch in (1, 8, 32))
        assert row["precision"] == ("int8" if name.endswith("int8") else "fp32")
    assert rows["ORT int8"]["size_mb"] < 0.35 * rows["ORT fp32"]["size_mb"]
    assert rows["ORT fp32"]["process_mb"] < rows["eager torch"]["process_mb"]  # it loads no PyTorch
    if pruned:
        assert rows["pruned ORT fp32"]["size_mb"] < 0.5 * rows["ORT fp32"]["size_mb"]
    shown = render(
        {"device": "CPU", "matrix_rates": {}, "suites": {"deploy": {"about": "what runs", "rows": rows}}}, table
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert "p99, 32" in shown


@pytest.mark.slow
def test_without_torch_pruning_the_pruned_ones_are_left_out_with_a_line(images, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    import sys

    from robustcls.bench import deploying

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr(deploying, "_memory", lambda file, shape: None)
    model = build(TASK["arch"], classes=images.classes, input_size=images.pixels.shape[1:])
    said = []
    variants = deploying.variants_of(model, *images.batch(), tmp_path, said.append)
    assert list(variants) == ["eager torch", "folded torch", "ORT fp32", "ORT int8"]
    assert "pip install" in said[0]
    assert "process_mb" not in variants["ORT int8"]()
