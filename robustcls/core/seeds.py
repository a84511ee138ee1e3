"""Derive the seeds of random streams from their purpose."""


def mix(*values: int) -> int:
    """Return one seed from several values, the same on every machine. Nearby values give unrelated seeds (SplitMix64)."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**63
