"""Wrappers: modules around a model, so that every attack evaluates a defence as an adaptive attack should.

A file here registers a wrapper by defining a function of the same name, `(model, *, ...) -> nn.Module`.
"""
