"""Clean and robust accuracy, with what a reader needs to believe them.

A `Subject` (model, samples, threat) and a `Plan` (attacks, checks) go into `evaluate_subject`; an `Evaluation` comes out.
"""
