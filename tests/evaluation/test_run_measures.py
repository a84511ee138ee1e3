"""The measures beside the attacks: if one fails, the results of the attacks are kept."""

from types import SimpleNamespace

import pytest

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.measures import measures
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.measures.calibration import measure as calibration
from robustcls.results.records import Evaluation
from tests.helpers.clock import Clock
from tests.helpers.eval_models import completed, evaluated, make_batch, make_net

NOTHING = ReportConfig(examples=0, maps_n=0, curves_n=0, minimum_n=0, corruptions_n=0, quiet=True)


@pytest.fixture
def judged():
    x, y = make_batch(20)
    return evaluated(make_net(), x, y, ThreatModel("linf", 0.01), ["fgsm"], precision="fp32", batch_size=20)


def test_the_attacks_are_kept_before_the_first_part_that_may_fail(judged, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(calibration, "measure", failing)
    file = tmp_path / "evaluation.json"
    with pytest.raises(RuntimeError, match="out of memory"):
        completed(judged, make_net(), NOTHING, done=lambda found: found.save(file))
    assert Evaluation.load(file).robust == judged.evaluation.robust


def test_the_time_that_the_parts_take_is_counted(judged, monkeypatch):
    before, kept, clock = judged.evaluation.provenance.seconds, [], Clock()
    monkeypatch.setattr(calibration, "measure", lambda *_, **__: setattr(clock, "now", clock.now + 5))
    monkeypatch.setattr("robustcls.evaluation.run_measures.time", SimpleNamespace(perf_counter=clock))
    completed(judged, make_net(), NOTHING, done=lambda found: kept.append(found.provenance.seconds))
    assert kept[0] == before
    assert kept[1] == pytest.approx(before + 5, abs=1e-3)
    assert judged.evaluation.provenance.seconds == kept[-1]


def test_measures_run_in_their_order_and_each_has_a_place_of_its_own_in_the_report():
    assert [one.order for one in measures()] == sorted(one.order for one in measures())
    assert {one.name for one in measures()} >= {
        "calibration", "gallery", "explanations", "other_curves", "minimum", "corruptions"
    }  # fmt: skip
    parts = [part for one in measures() for part in one.parts.values()]
    assert len({part.order for part in parts}) == len({part.title for part in parts}) == len(parts)
    assert all(hasattr(one.load(), "measure") and hasattr(one.load(), "seconds") for one in measures())


def test_options_of_a_measure_are_options_of_a_report():
    names = [name for one in measures() for name in one.option_fields()]
    assert len(set(names)) == len(names)
    defaults = {"examples": 24, "maps_n": 50, "curves_n": 100, "minimum_n": 100, "corruptions_n": 200}
    assert {name: getattr(ReportConfig(), name) for name in names}.items() >= defaults.items()
    assert all(one.count in one.option_fields() for one in measures() if one.count)


def test_python_takes_the_measures_of_a_profile():
    x, y = make_batch(12)
    found = robustcls.evaluate(
        make_net(),
        x,
        y,
        ThreatModel("linf", 0.01),
        attacks="fgsm",
        profile="quick",
        method=("saliency",),
        corruptions_n=5,
    )
    assert found.profile == "quick"
    assert (found.corruptions.n, len(found.gallery.examples)) == (5, 12)
    assert found.calibration.clean.n == 12
    assert found.not_run["minimum"] == "left out by --minimum-n 0 (--profile quick)"
    with pytest.raises(InputError, match="unknown option 'corruption_n': did you mean 'corruptions_n'"):
        robustcls.evaluate(make_net(), x, y, "linf:0.01", corruption_n=5)
