import numpy as np
import pytest
import torch

from robustcls.core.threat import ThreatModel
from robustcls.evaluation.measures.gallery.measure import draw_examples, outcome_of
from robustcls.evaluation.measures.gallery.measure import measure as make_gallery
from robustcls.evaluation.measures.gallery.record import Gallery
from tests.helpers.eval_models import evaluated, make_batch, make_net


@pytest.fixture(scope="module")
def judged():
    x, y = make_batch(120)
    return evaluated(make_net(), x, y, ThreatModel("linf", 0.01), ["pgd(steps=5)"], precision="fp32", batch_size=32)


def outcomes(judged, rows=None):
    rows = range(len(judged.y)) if rows is None else rows
    names = [outcome_of(judged.examples, row) for row in rows]
    return {name: names.count(name) for name in ("broken", "survived", "clean_error")}


def test_the_fixture_has_enough_samples_of_each_outcome(judged):
    assert min(outcomes(judged).values()) >= 20


@pytest.mark.parametrize("count", [10, 20, 30])
def test_the_gallery_shows_50_percent_broken_40_robust_and_10_misclassified(judged, count):
    rows = draw_examples(judged.examples, count, 0)
    assert outcomes(judged, rows) == {"broken": count // 2, "survived": count * 4 // 10, "clean_error": count // 10}
    assert rows == sorted(set(rows))


def test_what_one_group_lacks_the_others_fill(judged):
    have = outcomes(judged)
    rows = draw_examples(judged.examples, 110, 0)
    assert len(rows) == len(set(rows)) == 110
    found = outcomes(judged, rows)
    assert found["broken"] == min(have["broken"], found["broken"])
    assert draw_examples(judged.examples, 1000, 0) == list(range(120))
    assert draw_examples(judged.examples, 0, 0) == []
    for count in range(1, 40):
        assert len(draw_examples(judged.examples, count, 0)) == count


def test_the_draw_goes_over_the_classes_in_turn(judged):
    rows = draw_examples(judged.examples, 16, 0)
    for name in ("broken", "survived"):
        group = [row for row in range(120) if outcome_of(judged.examples, row) == name]
        have = judged.y[group].bincount(minlength=4)
        drawn = judged.y[[row for row in rows if outcome_of(judged.examples, row) == name]].bincount(minlength=4)
        short = drawn.max() - drawn
        assert ((short <= 1) | (drawn == have)).all(), (have, drawn)


def test_the_seed_shuffles(judged):
    assert (
        draw_examples(judged.examples, 20, 0)
        == draw_examples(judged.examples, 20, 0)
        != draw_examples(judged.examples, 20, 1)
    )


def test_the_gallery_shows_what_was_found(judged):
    model = make_net().train()
    gallery = make_gallery(*judged.on(model), methods=["saliency"], n=12, seed=0, batch_size=5)
    assert isinstance(gallery, Gallery)
    assert model.training
    assert "12 of 120 samples" in gallery.rule
    assert [example.index for example in gallery.examples] == draw_examples(judged.examples, 12, 0)
    for example in gallery.examples:
        row = example.index
        assert example.outcome == outcome_of(judged.examples, row)
        np.testing.assert_allclose(example.clean.decode(), judged.x[row], atol=0.5 / 255 + 1e-6)
        delta = (judged.examples.x_adv - judged.x)[row].numpy()
        np.testing.assert_allclose(example.perturbation.decode(), delta, atol=max(np.abs(delta).max(), 1e-9) / 253)
        with torch.no_grad():
            p = make_net()(judged.x[row][None]).softmax(1)[0]
        assert example.clean_top[0] == [int(p.argmax()), pytest.approx(p.max().item(), abs=1e-4)]
        assert len(example.clean_top) == 3
        shown = [one[0] for one in example.adversarial_top]
        assert (shown[0] != judged.y[row]) == (example.outcome != "survived")
        roles = [one.role for one in example.maps]
        assert roles[:2] == ["clean", "adversarial"]
        assert ("adversarial_class" in roles) == (example.outcome != "survived")
        assert all(one.values.shape == [8, 8] for one in example.maps)
        targets = {one.role: one.target for one in example.maps}
        assert targets["clean"] == targets["adversarial"] == judged.y[row]


def test_an_empty_gallery(judged):
    assert make_gallery(*judged.on(make_net()), methods=["saliency"], n=0, seed=0, batch_size=5).examples == []
