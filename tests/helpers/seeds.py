"""Seeded generators, and the state of the global ones."""

import numpy as np
import torch


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_states() -> tuple[bytes, str]:
    """Return the states of the global generators of torch and numpy."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())
