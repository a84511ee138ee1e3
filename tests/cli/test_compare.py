"""`robustcls compare`: tables of two and more evaluations."""

import re

from robustcls.reporting.index import render_index
from robustcls.results.certified import Certified
from robustcls.results.records import Accuracy
from tests.helpers.bracketed import TRIED, bounded
from tests.helpers.certificates import N, labels_of, smoothed_evaluation, smoothing
from tests.helpers.judged_by_hand import make_evaluation


def test_compare_shows_both_and_the_paired_difference(cli, home):
    result = cli("compare", home / "a.json", home / "b.json", home / "a.json")
    assert (result.status, result.err) == (0, "")
    text = " ".join(result.out.split())
    assert "A run/ckpt.pt 90.0% [82.6%, 94.5%] 50.0% [40.4%, 59.6%]" in text
    assert "B pgd/ckpt.pt 85.0%" in text
    assert "B - A clean -5.0%" in text
    assert "B - A robust +10.0%" in text
    assert "C - A robust +0.0%" in text
    assert "0.002" in text  # the exact McNemar p for 10 against 0
    assert "digits, split test, n = 100" in text
    assert "linf 8/255, upper bound: pgd" in text


def test_the_widest_comparison_fits(cli, tmp_path):
    names = []
    for i, name in enumerate(["mylab.networks.residual:wide_resnet_34_10_with_extra_data", "x/ckpt.pt"]):
        evaluation = make_evaluation(10000, 10000 * i, n=10000, name=name)
        evaluation.clean = Accuracy.of(10000, 10000)
        evaluation.robust.kind = "upper bound: " + ", ".join(f"apgd_t(steps={i}00, targets=9)" for i in range(1, 6))
        evaluation.data.name = "mylab.datasets.collections:retina_photographs_of_2024(size=64)"
        names.append(tmp_path / "here" / f"{i}.json")
        evaluation.save(names[-1])
    result = cli("compare", *names)
    assert result.status == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    assert "+100.0%" in result.out


def test_compare_writes_markdown_tables(cli, home):
    plain, result = (cli("compare", home / "a.json", home / "b.json", *more) for more in ((), ("--markdown",)))
    assert result.status == 0, result.err
    rows = [line for line in result.out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert sum(set(line) == set("| -") for line in rows) == 2
    numbers = re.compile(r"[+-]?\d+\.\d%")
    assert numbers.findall(result.out) == numbers.findall(plain.out)


def saved(name, evaluation):
    evaluation.save(name)
    return name


def test_certified_accuracies_are_compared_where_they_were_made_alike(cli):
    first, second, third = (smoothed_evaluation() for _ in range(3))
    second.certified = smoothing([950] * 90 + [600] * 10, labels_of(second), sigma=0.5)
    third.certified = smoothing([2 * N] * 100, labels_of(third), n=2 * N)
    files = [saved("a.json", first), saved("b.json", second), saved("c.json", third)]
    found = cli("compare", *files)
    assert found.status == 0, found.err
    assert max(map(len, found.out.splitlines())) <= 80
    text = " ".join(found.out.split())
    assert "A l2 0.25 80.0% [71.1%, 86.7%]" in text
    assert "C l2 0.25 100.0%" in text
    assert "B - A certified 0.25 +10.0%" in text
    assert "C - A certified" not in text
    assert "certified accuracies of A and C are not compared: the numbers of draws differ (1000 and 2000)" in text
    assert "certified: B by smoothing with sigma 0.5, 1,000 draws, alpha 0.001" in text
    rows = [line for line in cli("compare", *files, "--markdown").out.splitlines() if line.startswith("| B - A")]
    assert len(rows) == 3


def test_certificates_of_one_alone_are_said(cli):
    first, second = smoothed_evaluation(), smoothed_evaluation()
    second.certified = None
    text = " ".join(cli("compare", saved("a.json", first), saved("b.json", second)).out.split())
    assert "A l2 0.25 80.0%" in text
    assert "certified accuracies of A and B are not compared: one of them has no certificates" in text
    assert "B - A certified" not in text


def test_a_proof_that_attacks_broke_is_said_and_radii_are_as_people_write_them(cli):
    """The warning follows from the records of the samples, whatever checks the file contains."""
    sound = bounded()
    first = saved("a.json", sound)
    plain = " ".join(cli("compare", first, saved("b.json", bounded())).out.split())
    assert "warning" not in plain
    assert "A linf 2/255 70.0%" in plain
    assert "B - A certified 2/255" in plain
    sample = next(one for one in sound.samples if one.broken_by is not None)
    false = next(one for one in sound.certified.samples if one.index == sample.index)
    false.radius = 8 / 255
    sound.certified = Certified.of("bounds", "linf", sound.certified.samples, TRIED, algorithm="CROWN <b>")
    found = cli("compare", first, saved("b.json", sound))
    text = " ".join(found.out.split())
    assert "warning: B: attacks contradict the certificates, see the check certificates" in text
    assert "warning: A" not in text
    assert max(map(len, found.out.splitlines())) <= 80
    html = render_index(".")
    assert html.count("broken by attacks") == 1
