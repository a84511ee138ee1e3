"""Certificates: proofs that no perturbation within a radius changes a prediction; one file per method.

They read as their papers: (model, images, ...) -> what is proven of each. `robustcls.evaluation.certify` runs them.
"""
