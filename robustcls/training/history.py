"""The training history of a checkpoint, read from its run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.results.records import Chance, Epoch, Training


def read_training(checkpoint: Path, meta: Mapping[str, Any]) -> Training | None:
    """Return the record of the run that wrote a checkpoint, from the history.jsonl beside it.

    None where that file is missing, unreadable, or of a different run. meta: the metadata of the checkpoint.
    """
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
