"""The result of comparing an exported file with its original, in words."""

from robustcls.evaluation.measures.artefact.record import Artefact

# Status: the number of samples and the share of all samples, both of which must be exceeded.
BOUNDS = {"fail": (4, 0.05), "warn": (2, 0.02)}


def masking(one: Artefact) -> str:
    """Whether the gradients of the file mislead attacks: pass, warn or fail, or not_run if the file has no gradient.

    warn and fail: of the samples that withstood the first white-box attacks, other attacks break many more for the file than
    for the original; or many samples count as robust only because another class ties with the correct one.
    """
    if one.masked is None or one.masked_original is None or one.agreement is None:
        return "not_run"
    more, n = max(one.masked - one.masked_original, _ties(one)), one.agreement.total
    return next((name for name, (count, share) in BOUNDS.items() if more > max(count, share * n)), "pass")


def verdict(one: Artefact) -> str:
    """A summary of the comparison in a few sentences."""
    name = f"{one.quantization.partition('(')[0] or 'floating-point'} file"
    if one.agreement is None or one.original is None or one.union is None or one.original.union is None:
        return f"The {name} has a size of {one.bytes / 1e6:.2f} MB; the original was not measured."
    text = (
        f"The {name} predicts the same class as the original on {one.agreement.accuracy:.1%} of the clean images. "
        f"It has {one.bytes / one.original.bytes:.2f} times the size of the original"
    )
    if faster := _faster(one):
        text += f" and processes a single image {faster:.1f} times as fast"
    if one.difference is None:
        return f"{text}. The file has no gradient ({one.no_gradient}), so the robustness of the two cannot be compared."
    low, high = (100 * end for end in one.ci95)
    text += (
        f". Under all attacks, the file classifies {one.union.accuracy:.1%} of the samples correctly and the original "
        f"{one.original.union.accuracy:.1%}: a difference of {100 * one.difference:+.1f} points, 95% interval {low:+.1f} to "
        f"{high:+.1f}"
    )
    text += ". The interval contains 0, so the difference may be due to chance." if low <= 0 <= high else "."
    if _ties(one):
        against = (one.union.correct - _ties(one)) / one.union.total
        text += (
            f" On {_ties(one)} of the samples counted as correct, another class ties with the correct one: with ties counted "
            f"against the file it classifies {against:.1%} correctly."
        )
    if one.masked and masking(one) != "pass":
        text += (
            f" Other attacks broke {one.masked} samples that had withstood the first white-box attacks: under those "
            f"attacks alone, the file looks {100 * one.masked / one.agreement.total:.1f} points more robust than it is."
        )
    return text


def _ties(one: Artefact) -> int:
    return one.labels.ties_attacked if one.labels else 0


def _faster(one: Artefact) -> float | None:
    first = one.latency[0] if one.latency else None
    return first.original_p50 / first.p50 if first and first.original_p50 and first.p50 else None
