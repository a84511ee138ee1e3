"""What a run folder says of how its checkpoint was trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.results.records import Chance, Epoch, Training


def read_training(checkpoint: Path, meta: Mapping[str, Any]) -> Training | None:
    """The record of the run that wrote a checkpoint, from history.jsonl beside it; None where there is none to read."""
    try:
        lines = (checkpoint.parent / "history.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = [Epoch(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        return None
    if not any(epoch.epoch == meta.get("epoch") for epoch in epochs):
        return None
    config = dict(meta.get("config", {}))
    chance = Chance(**meta["chance"]) if "chance" in meta else None
    return Training(config, epochs, meta["epoch"], meta.get("selected_by", ""), config.get("val_attack", ""), chance)
