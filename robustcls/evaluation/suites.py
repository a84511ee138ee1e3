"""Named lists of attacks."""

__all__ = ["fast"]


def fast() -> list[str]:
    """APGD with cross-entropy, then targeted APGD with DLR, 100 steps each: an upper bound on robust accuracy."""
    return ["apgd_ce", "apgd_t"]
