"""`robustcls bench`: its tables, its file, and files of earlier versions."""

import json

import pytest
import torch

from robustcls.bench.attacking import EXACT, ways_of
from robustcls.cli.console import markdown, table
from robustcls.cli.main import main
from tests.helpers import ROOT

REPORTS = ROOT / "reports" / "bench"


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, arguments)])
    printed = capsys.readouterr()
    return stop.value.code or 0, printed.out, printed.err


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
    assert attacks["agreement"]["pgd20"]["status"] == "not_run"  # too few samples
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
        ("--suite cuda --model m.pt", "needs its --arch"),
        ("--workload pgd", "did you mean"),
        ("--method gradcm", "did you mean 'gradcam'"),
        ("--suite cuda --model nowhere.pt --arch vgg16(width=0.05)", "no file nowhere.pt"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words, capsys):
    status, _, error = bench(capsys, *arguments.split())
    assert status == 2
    assert words in error
