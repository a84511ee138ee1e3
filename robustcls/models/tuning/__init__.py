"""Choices of which parameters to train, one per file: functions `(model, generator, *, ...) -> frozen modules`.

The BatchNorms of frozen modules keep their statistics. The rest of the model is trained. Random numbers come only from the
generator.
"""
