"""Wrappers: a model in another model, so that every attack evaluates a defence as it was meant to be attacked.

A file here defines a function of its own name, `(model, *, ...) -> nn.Module`, and that is its registration.
"""
