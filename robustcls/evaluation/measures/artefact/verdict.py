"""What an exported file is worth beside its original, in words."""

from robustcls.evaluation.measures.artefact.record import Artefact

BOUNDS = {"fail": (4, 0.05), "warn": (2, 0.02)}  # of what was masked more than in the original: samples, share of all


def masking(one: Artefact) -> str:
    """pass, warn or fail: whether other attacks break much more of the file than of its original, of what the attacks by its
    own gradients left, or many samples count as robust by a tie; not_run where it has no gradient."""
    if one.masked is None or one.masked_original is None or one.agreement is None:
        return "not_run"
    more, n = max(one.masked - one.masked_original, _ties(one)), one.agreement.total
    return next((name for name, (count, share) in BOUNDS.items() if more > max(count, share * n)), "pass")


def verdict(one: Artefact) -> str:
    """What the file is worth beside its original, in a few sentences."""
    what = f"The {one.quantization.partition('(')[0] or 'floating-point'} file"
    if one.agreement is None or one.original is None or one.union is None or one.original.union is None:
        return f"{what} has {one.bytes / 1e6:.2f} MB; its original was not measured beside it."
    smaller = one.original.bytes / one.bytes
    said = f"{what} keeps {one.agreement.accuracy:.1%} of its original's labels at {1 / smaller:.2f} of the size"
    if faster := _faster(one):
        said += f" and {faster:.1f} times the speed for an image"
    if one.difference is None:
        return f"{said}. It has no gradient ({one.no_gradient}), so how robust it is beside its original is not known."
    low, high = (100 * end for end in one.ci95)
    ours, theirs = one.union.accuracy, one.original.union.accuracy
    said += (
        f". Under all attacks it classifies {ours:.1%} correctly, its original {theirs:.1%}: "
        f"a difference of {100 * one.difference:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}"
    )
    said += ", which these samples cannot tell from none." if low <= 0 <= high else "."
    if _ties(one):
        against = (one.union.correct - _ties(one)) / one.union.total
        said += (
            f" In {_ties(one)} of these samples another class ties with the correct one: with ties counted against the file "
            f"it classifies {against:.1%} correctly."
        )
    if one.masked and masking(one) != "pass":
        said += (
            f" Other attacks broke {one.masked} samples that those by its own gradients left: "
            f"by these alone it looks {100 * one.masked / one.agreement.total:.1f} points more robust than it is."
        )
    return said


def _ties(one: Artefact) -> int:
    return one.labels.ties_attacked if one.labels else 0


def _faster(one: Artefact) -> float | None:
    first = one.latency[0] if one.latency else None
    return first.original_p50 / first.p50 if first and first.original_p50 and first.p50 else None
