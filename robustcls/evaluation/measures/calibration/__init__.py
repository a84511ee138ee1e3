"""Whether confidence agrees with accuracy, on clean images and under attack."""

from robustcls.core.measures import Measure, Part, Threshold

MEASURE = Measure(
    text="calibration",
    order=10,
    parts={
        "calibration": Part(80, "Calibration", "the model's confidence was not recorded"),
    },
    thresholds={
        "max_ece": Threshold("clean calibration error (ECE)", lambda found: (found.clean.ece, found.clean.n)),
        "max_adversarial_ece": Threshold(
            "adversarial calibration error (ECE)",
            lambda found: (found.adversarial.ece, found.adversarial.n),
            under_attack=True,
        ),
    },
    compared=True,
)
