"""Training steps: functions (state, x, y) -> Loss that update the weights on one batch, one per file.

A method that keeps a tensor from batch to batch, such as Free-AT, is a training step rather than an inner attack.
"""
