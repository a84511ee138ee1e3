"""All records of an evaluation in one module, except those of measures, which are in their own record.py."""

from robustcls.results.accuracy import Accuracy, Balanced, Estimate, Rates, Spread, TwoClasses
from robustcls.results.arrays import Array
from robustcls.results.attribution import EXPLANATION_SCHEMA, Explanations, Likeness, Measures, MethodMeasures
from robustcls.results.certified import Certified, CertifiedPoint, CertifiedSample
from robustcls.results.evaluation import SCHEMA, Evaluation
from robustcls.results.robustness import Attack, Check, CurvePoint, Rejection, Repeated, Sample, Targeted, UnderNoise
from robustcls.results.severity import Mistakes, Severity
from robustcls.results.subject import ClassMap, Data, Mask, Model, Provenance, Service, Threat
from robustcls.results.training import Chance, Epoch, Training

__all__ = [
    "EXPLANATION_SCHEMA", "SCHEMA", "Accuracy", "Array", "Attack", "Balanced", "Certified", "CertifiedPoint",
    "CertifiedSample", "Chance", "Check", "ClassMap", "CurvePoint", "Data", "Epoch", "Estimate", "Evaluation",
    "Explanations", "Likeness", "Mask", "Measures", "MethodMeasures", "Mistakes", "Model", "Provenance", "Rates",
    "Rejection", "Repeated", "Sample", "Service", "Severity", "Spread", "Targeted", "Threat", "Training", "TwoClasses",
    "UnderNoise",
]  # fmt: skip
