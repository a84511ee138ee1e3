"""Certificates: proofs that no perturbation within a radius changes a prediction; one file per method.

The functions follow their papers: (model, images, ...) -> the certificate of each image. They are run by
`robustcls.evaluation.certify`.
"""
