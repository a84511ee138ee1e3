"""The benchmark measures what it says: operations counted right, medians of rounds, failures in their row."""

import json
from pathlib import Path

import pytest
import torch

from robustcls.bench import suites
from robustcls.bench.attacking import EXACT, agreement, ways_of
from robustcls.bench.limits import forward_flops
from robustcls.bench.training import update_flops
from robustcls.cli.bench_tables import render
from robustcls.cli.console import markdown, table
from robustcls.cli.main import main
from robustcls.data.splits import choose, load_split
from robustcls.models.checkpoint import build

REPORTS = Path(__file__).resolve().parents[2] / "reports" / "bench"
TASK = {
    "arch": "vgg16(width=0.05)", "norm": "linf", "eps": "0.1", "batch_size": 32, "device": "cpu", "precision": "fp32",
    "seed": 0, "updates": 6,
}  # fmt: skip


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, arguments)])
    printed = capsys.readouterr()
    return stop.value.code or 0, printed.out, printed.err


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
        ("trades3", 1 + 3 * 2 + 2 * 3),  # the clean prediction, the attack, two images in the update
    ],
)  # fmt: skip
def test_operations_of_an_update_are_its_passes(workload, passes, images):
    size = images.pixels.shape[1:]
    forward = forward_flops(build(TASK["arch"], classes=images.classes, input_size=size), size)
    counted = update_flops(workload, images, TASK) / forward
    # No gradient reaches the images of an update, nor the clean ones' first layer: a little under whole passes.
    assert passes - 0.5 < counted <= passes + 0.01


def test_everything_is_measured_once_a_round_by_turns():
    order = []

    def measure(name):
        order.append(name)
        return {"images_per_second": float(len(order)), "precision": "fp32"}

    found = suites.by_turns(["a", "b"], 3, measure, lambda _: None)
    assert order == ["a", "b"] * 3
    assert suites._row(found["b"]) == {"images_per_second": 4.0, "precision": "fp32"}


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
def test_all_suites_and_the_file_that_is_printed_again(tmp_path, capsys):
    out = tmp_path / "bench.json"
    small = ["--arch", "vgg16(width=0.05)", "--rounds", 1, "--updates", 4, "--n", 8, "--batch-size", 16, "--quiet"]
    status, printed, _ = bench(capsys, *small, "--method", "gradcam", "--out", out)
    assert status == 0
    result = json.loads(out.read_text())
    assert list(result["suites"]) == ["train", "explain", "attack"]
    training, explanation, attacks = result["suites"].values()
    row = training["rows"]["pgd3"]
    assert row["images_per_second"] == training["rounds"]["pgd3"][0]["images_per_second"]
    assert row["flop_per_second"] == row["images_per_second"] * training["flops_per_image"]["pgd3"]
    assert row["share_of_limit"] == row["flop_per_second"] / result["matrix_rates"][row["precision"]]
    assert list(explanation["rows"]) == ["gradcam"]
    ways = {"exact": EXACT, "bf16": ", bf16 first"}
    assert set(attacks["rows"]) == {"pgd20", *(f"pgd20{ways[way]}" for way in ways_of(torch.device("cpu")))}
    assert len({row["clean_accuracy"] for row in attacks["rows"].values()}) == 1
    assert attacks["rows"]["pgd20"]["flop_per_second"] > 0
    assert attacks["agreement"]["pgd20"]["status"] == "not_run"  # eight samples are too few
    assert set(result["matrix_rates"]) == set(result["matrix_rates_at_the_end"])
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert bench(capsys, out)[1].strip() == printed.partition(f"\n\n{out}")[0].strip()


@pytest.mark.slow
def test_the_suite_cuda_on_the_cpu(tmp_path, capsys):
    out = tmp_path / "bench.json"
    small = ["--arch", "vgg16(width=0.05)", "--updates", 4, "--batch-size", 16, "--workload", "clean", "--quiet"]
    assert bench(capsys, "--suite", "cuda", *small, "--out", out)[0] == 0
    (suite,) = json.loads(out.read_text())["suites"]["cuda"].values()
    assert list(suite["train"]["rows"]) == ["clean"]


@pytest.mark.parametrize("file", sorted(REPORTS.glob("*.json")), ids=lambda file: file.stem)
@pytest.mark.parametrize("show", [table, markdown])
def test_files_of_earlier_versions_are_printed(file, show, capsys):
    status, printed, _ = bench(capsys, file, *(["--markdown"] if show is markdown else []))
    assert status == 0
    content = json.loads(file.read_text())
    assert content["device"] in printed
    for suite in content["suites"].values():
        for name in suite.get("rows", ()):
            assert name in printed
    if show is table:
        assert max(map(len, printed.splitlines())) <= 80


def test_a_contest_says_where_it_went(capsys):
    status, _, error = bench(capsys, "--suite", "attack", "--contest", "autoattack", "--model", "m.pt")
    assert status == 2
    assert "python -m experiments.contests --suite attack --contest autoattack" in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_bench_is_refused_in_a_line(tmp_path, capsys):
    for name, text in (("empty.json", "{}"), ("broken.json", "{"), ("list.json", "[]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SystemExit) as stop:
            main(["bench", str(tmp_path / name)])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "is no result of robustcls bench" in error
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(tmp_path / "empty.json"), "--n", "3"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--rounds 0", "--rounds 0 is too small"),
        ("--updates 3", "--updates 3 is too small"),
        ("--suite cuda --model m.pt", "give its --arch"),
        ("--workload pgd", "did you mean"),
        ("--method gradcm", "did you mean 'gradcam'"),
        ("--suite cuda --model nowhere.pt --arch vgg16(width=0.05)", "no file nowhere.pt"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words, capsys):
    status, _, error = bench(capsys, *arguments.split())
    assert status == 2
    assert words in error
