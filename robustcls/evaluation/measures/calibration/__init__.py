"""Whether confidence agrees with accuracy, on clean images and under attack."""

from robustcls.core.measures import Measure, Part

MEASURE = Measure(
    text="calibration",
    order=10,
    parts={
        "calibration": Part(80, "Calibration", "the model's confidence was not recorded"),
    },
)
