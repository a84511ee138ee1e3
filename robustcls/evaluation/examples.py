"""Verified adversarial examples, as a file."""

from pathlib import Path
from typing import Any

import numpy as np

from robustcls.core.files import atomic_write
from robustcls.evaluation.judge import Judged


def save_examples(path: str | Path, judged: Judged) -> int:
    """Writes the verified adversarial examples, and them alone, as npz; returns how many there are.

    x, x_adv: float32 N,C,H,W in [0, 1]; y, index: N; broken_by: the name of the attack, N; files: their names, N, of data
    that are files.
    """
    broken = judged.outcome.broken_by >= 0
    names = np.array([attack.name for attack in judged.evaluation.attacks])
    index = np.array([sample.index for sample in judged.evaluation.samples])
    files = [sample.file for sample, was in zip(judged.evaluation.samples, broken.tolist(), strict=True) if was]
    named: dict[str, Any] = {"files": np.array(files, dtype=np.str_)} if files and None not in files else {}
    with atomic_write(path, "--save-examples") as part, open(part, "wb") as file:
        np.savez_compressed(
            file,
            x=judged.x[broken].numpy(),
            x_adv=judged.outcome.x_adv[broken].numpy(),
            y=judged.y[broken].numpy(),
            index=index[broken.numpy()],
            broken_by=names[judged.outcome.broken_by[broken].numpy()],
            **named,
        )
    return int(broken.sum())
