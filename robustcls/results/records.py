"""The records of an evaluation, under one name."""

from robustcls.results.accuracy import Accuracy, Balanced, Estimate, Rates, Spread, TwoClasses
from robustcls.results.arrays import Array
from robustcls.results.attribution import EXPLANATION_SCHEMA, Explanations, Likeness, Measures, MethodMeasures
from robustcls.results.calibration import Bin, Calibration, Reliability
from robustcls.results.corruptions import Corruption, Corruptions
from robustcls.results.evaluation import SCHEMA, Evaluation
from robustcls.results.gallery import Example, Gallery, Map
from robustcls.results.robustness import Attack, Check, CurvePoint, MinimumNorm, NormCurve, Sample
from robustcls.results.subject import ClassMap, Data, Model, Provenance, Threat
from robustcls.results.training import Chance, Epoch, Training

__all__ = [
    "EXPLANATION_SCHEMA", "SCHEMA", "Accuracy", "Array", "Attack", "Balanced", "Bin", "Calibration", "Chance", "Check",
    "ClassMap", "Corruption", "Corruptions", "CurvePoint", "Data", "Epoch", "Estimate", "Evaluation", "Example",
    "Explanations", "Gallery", "Likeness", "Map", "Measures", "MethodMeasures", "MinimumNorm", "Model", "NormCurve",
    "Provenance", "Rates", "Reliability", "Sample", "Spread", "Threat", "Training", "TwoClasses",
]  # fmt: skip
