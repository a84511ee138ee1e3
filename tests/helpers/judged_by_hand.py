"""Evaluations with given counts."""

from robustcls.results.records import Accuracy, Attack, Check, Data, Evaluation, Model, Provenance, Sample, Threat


def make_evaluation(clean, robust, n=100, name="run/ckpt.pt", attack="pgd", data="ab"):
    """Return an evaluation of n samples: the first `clean` are correct, and the first `robust` of these are robust."""
    samples = [
        Sample(i, i % 10, i % 10 if i < clean else (i + 1) % 10, i % 10 if i < robust else (i + 1) % 10,
               attack if robust <= i < clean else None, 0.03 if robust <= i < clean else None)
        for i in range(n)
    ]  # fmt: skip
    return Evaluation(
        Model(name, "00" * 32),
        Data("digits", "test", n, data * 32),
        Threat("linf", 8 / 255, "8/255"),
        Accuracy.of(clean, n),
        Accuracy.of(robust, n, f"upper bound: {attack}"),
        [Attack(attack, {"steps": 10}, clean, clean - robust, robust / n, 1.0, 10, 10)],
        [Check("zero_gradients", "pass", 0.0, 0.05, "every sample has an input gradient")],
        samples,
        Provenance("robustcls attack", {}, 0, {}, "cpu", "", "2026-01-01T00:00:00+00:00", 1.0),
    )
