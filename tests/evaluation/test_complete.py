"""What is measured beside the attacks: nothing that fails takes the attacks with it."""

import time

import pytest
from eval_models import evaluated, make_batch, make_net

from robustcls.core.threat import ThreatModel
from robustcls.evaluation import complete as module
from robustcls.evaluation.complete import complete
from robustcls.evaluation.config import ReportConfig
from robustcls.results.records import Evaluation

NOTHING = ReportConfig(examples=0, maps_n=0, curves_n=0, minimum_n=0, corruptions_n=0, quiet=True)


@pytest.fixture
def judged():
    x, y = make_batch(20)
    return evaluated(make_net(), x, y, ThreatModel("linf", 0.01), ["fgsm"], precision="fp32", batch_size=20)


def test_the_attacks_are_kept_before_the_first_part_that_may_fail(judged, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "measure_calibration", failing)
    file = tmp_path / "evaluation.json"
    with pytest.raises(RuntimeError, match="out of memory"):
        complete(*judged.on(make_net()), NOTHING, [], 20, done=lambda: judged.evaluation.save(file))
    assert Evaluation.load(file).robust == judged.evaluation.robust


def test_the_time_that_the_parts_take_is_counted(judged, monkeypatch):
    before, kept = judged.evaluation.provenance.seconds, []
    monkeypatch.setattr(module, "measure_calibration", lambda *_, **__: time.sleep(0.2))
    complete(
        *judged.on(make_net()), NOTHING, [], 20, done=lambda: kept.append(judged.evaluation.provenance.seconds)
    )  # fmt: skip
    assert kept[0] == before
    assert kept[1] == pytest.approx(before + 0.2, abs=0.15)
    assert judged.evaluation.provenance.seconds == kept[-1]
