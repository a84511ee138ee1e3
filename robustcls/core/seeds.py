"""Derives seeds of random streams from what the streams are for."""


def mix(*values: int) -> int:
    """One seed from several, the same on every machine; nearby values give unrelated seeds (SplitMix64)."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**63
