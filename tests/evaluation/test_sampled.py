"""A last attack on a random sample of the survivors, with a bound for the rest; the suite `verdict`."""

from dataclasses import replace
from math import comb

import pytest
import torch
from torch import nn

import robustcls
from robustcls.cli.attack import summarise
from robustcls.cli.console import COLUMNS
from robustcls.evaluation import cascade
from robustcls.evaluation.attacks import as_attack
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.plan import Plan, make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.evaluation.suites import SAMPLED
from robustcls.reporting.card import model_card
from robustcls.results.evaluation import say_bounds
from robustcls.results.records import Evaluation
from robustcls.runtime.stored import EightBit
from tests.evaluation.test_journal import Cut, cut_after
from tests.helpers.eval_models import LINF, make_batch, make_net, without_times

M, N = 10, 60


class Shown(nn.Module):
    """A model that predicts class 1 if the first pixel exceeds a half; the second pixel identifies the sample."""

    def forward(self, x):
        lead = x[:, 0, 0, 0] - 0.5
        return torch.stack([-lead, lead], 1)


def numbered():
    x = torch.full((N, 1, 2, 2), 0.51)
    x[:, 0, 0, 1] = torch.arange(N) / 255
    return x, torch.ones(N).long()


def places(x):
    return (x[:, 0, 0, 1] * 255).round().long()


met: list[int] = []


def breaks(*rows):
    """Return an attack that succeeds only on the samples in these rows."""

    def attack(model, x, y, threat, *, generator=None):
        met.extend(places(x).tolist())
        x_adv = x.clone()
        x_adv[torch.isin(places(x), torch.tensor(rows)), 0, 0, 0] = 0.49
        return x_adv

    return attack


def run(*attacks, sample=M, seed=0, chunks=False, journal=None, progress=None, alone=False):
    met.clear()
    x, y = numbered()
    subject = make_subject(Shown(), x, y, LINF)
    if chunks:
        subject = replace(subject, x=EightBit((x * 255).round().to(torch.uint8)))
    every = [as_attack(one) for one in attacks]
    plan = Plan(
        [*every[:-1], replace(every[-1], sample=sample)], "own", alone, batch_size=8, precision="fp32", seed=seed
    )
    return evaluate_subject(subject, plan, journal=journal, progress=progress)


def test_a_sample_without_a_broken_one_gives_a_bound_on_the_rest():
    found = run(breaks(*range(20)), breaks())
    first, last = found.attacks
    assert (first.attacked, first.broken, first.sampled_from, first.at_most) == (N, 20, None, None)
    assert (last.attacked, last.broken, last.sampled_from) == (M, 0, 40)
    drawn = met[N:]
    assert len(drawn) == len(set(drawn)) == M
    assert min(drawn) >= 20, "only samples that are still robust are drawn"
    # In draws with replacement, if a larger share of the 40 were breakable, the probability of missing all of them in ten
    # draws would be below 1 in 20.
    assert (1 - last.at_most) ** M == pytest.approx(0.05)
    # Without replacement, as here, the bound is on the safe side: missing that many is even less probable.
    breakable = round(last.at_most * 40)
    assert comb(40 - breakable, M) / comb(40, M) < 0.05
    assert found.robust.correct == 40
    assert say_bounds(found) == [
        "attack #2 met 10 of the 40 samples left, drawn at random, and broke none: with 95% confidence it would break at most "
        "25.9% of them, 17.3 points"
    ]
    assert Evaluation.from_json(found.to_json()).attacks[1].at_most == last.at_most


@pytest.mark.slow
def test_the_draw_depends_on_the_seed_and_is_uniform():
    draws = []
    for seed in (0, 0, 1):
        run(breaks(), seed=seed)
        draws.append(met.copy())
    assert draws[0] == draws[1] != draws[2]
    counts = torch.zeros(N)
    for seed in range(120):
        run(breaks(), seed=seed)
        counts[met] += 1
    assert counts.sum() == 120 * M
    assert counts.min() >= 7, "each sample is drawn equally often: 20 times on average, with a standard deviation of 4"
    assert counts.max() <= 36


def test_one_broken_sample_makes_the_attack_run_on_all():
    run(breaks())
    drawn = met.copy()
    found = run(breaks(drawn[3], *(row for row in range(N) if row not in drawn)))
    assert sorted(met) == list(range(N)), "each sample is attacked once"
    assert (found.attacks[0].attacked, found.attacks[0].broken) == (N, N - M + 1)
    assert found.attacks[0].sampled_from is None
    assert say_bounds(found) == []
    assert found.robust.correct == M - 1


def test_samples_that_were_not_drawn_stay_robust():
    run(breaks())
    drawn = met.copy()
    found = run(breaks(*(row for row in range(N) if row not in drawn)))
    assert found.robust.correct == N
    assert found.attacks[0].sampled_from == N


@pytest.mark.parametrize("left", [M - 1, M])
def test_few_remaining_samples_are_all_attacked(left):
    found = run(breaks(*range(N - left)), breaks(N - 1))
    assert (found.attacks[1].attacked, found.attacks[1].broken, found.attacks[1].sampled_from) == (left, 1, None)


def test_each_alone_meets_all():
    found = run(breaks(1), breaks(), alone=True)
    assert found.attacks[1].alone.total == N
    assert found.attacks[1].sampled_from is None
    assert len(met) == 2 * N


@pytest.mark.parametrize("last", [breaks(), breaks(*range(30, N))])
def test_chunks_are_sampled_together(last, monkeypatch):
    monkeypatch.setattr(cascade, "CHUNK", 16)
    whole, chunked = (run(breaks(*range(20)), last, chunks=chunks) for chunks in (False, True))
    for found in (whole, chunked):
        found.data.sha256 = ""
    one, other = without_times(Held(whole)), without_times(Held(chunked))
    for sample in (*one["samples"], *other["samples"]):
        sample.pop("distance")
    for attack in (*one["attacks"], *other["attacks"]):
        attack.pop("median_distance")
    assert one == other


class Held:
    def __init__(self, evaluation):
        self.evaluation = evaluation


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("batches", [1, 8, 9])
@pytest.mark.parametrize("last", [breaks(), breaks(*range(30, N))])
def test_a_resumed_run_draws_the_same(last, batches, chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, "CHUNK", 16)
    attacks = breaks(*range(20)), last
    whole = run(*attacks, chunks=chunks)
    with pytest.raises(Cut):
        run(*attacks, chunks=chunks, journal=Journal(tmp_path / "e.partial", resume=False), progress=cut_after(batches))
    again = run(*attacks, chunks=chunks, journal=Journal(tmp_path / "e.partial", resume=True))
    assert without_times(Held(again)) == without_times(Held(whole))


@pytest.mark.slow
def test_the_suite(tmp_path):
    """With few samples, Square attacks all of them. If it attacks only some, terminal, JSON and model card state the bound."""
    x, y = make_batch()
    net = make_net()
    found = robustcls.evaluate(net, x, y, LINF, suite="verdict", batch_size=32, precision="fp32")
    every = robustcls.evaluate(
        net, x, y, LINF, batch_size=32, precision="fp32",
        attacks=[one.text for one in make_plan(make_subject(net, x, y, LINF), suite="verdict").attacks],
    )  # fmt: skip
    assert found.robust.kind == "upper bound: verdict"
    assert [(one.attacked, one.broken, one.sampled_from) for one in found.attacks] == [
        (one.attacked, one.broken, None) for one in every.attacks
    ]
    assert found.attacks[-1].name.startswith("square")
    assert 0 < found.robust.correct < SAMPLED["verdict"]


@pytest.mark.slow
def test_a_bound_is_said_wherever_the_verdict_is(monkeypatch):
    x, y = make_batch()
    monkeypatch.setitem(SAMPLED, "verdict", 5)
    found = robustcls.evaluate(make_net(), x, y, "linf:0.002", suite="verdict", batch_size=32, precision="fp32")
    (text,) = say_bounds(found)
    assert found.attacks[-1].attacked == 5
    assert found.attacks[-1].sampled_from == found.robust.correct > 5
    assert " ".join(summarise(found).split()).count(text) == 1
    assert max(map(len, summarise(found).splitlines())) <= COLUMNS
    assert text in str(found)
    assert text in " ".join(model_card(found).split())


@pytest.mark.slow
def test_beside_another_attack_the_suite_is_not_sampled():
    """A later attack would also get samples that Square never attacked."""
    x, y = make_batch()
    subject = make_subject(make_net(), x, y, LINF)
    assert [one.sample for one in make_plan(subject, ["verdict"]).attacks][-1] == SAMPLED["verdict"]
    plan = make_plan(subject, ["verdict", "fgsm"])
    found = evaluate_subject(subject, plan)
    assert [one.sampled_from for one in found.attacks] == [None] * len(found.attacks)
