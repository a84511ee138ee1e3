"""Options for a choice among tiny nets of two epochs each, so that the choice does not depend on the machine."""

import pytest

from tests.helpers.tiny_run import TINY

KEPT = ("data", "eps", "limit_train", "batch_size", "val_n", "val_attack", "device", "precision")
NETS = [f"tests.helpers.tiny_run:{name}" for name in ("small_cnn", "tiny_net", "flat_net")]


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Return options of `robustcls.choose`."""
    monkeypatch.setattr("robustcls.choosing.work.epochs_that_fit", lambda *_: 2)
    monkeypatch.setattr("robustcls.choosing.choose.latency_of", lambda *_: (1.0, ""))
    common = {name: TINY[name] for name in KEPT}
    return {"adv": "fgsm", "minutes": 10, "seed_noise": 0, "out": tmp_path / "choice", **common}
