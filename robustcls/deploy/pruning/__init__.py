"""Pruning methods, one per file: `(model, images, labels, *, ...) -> None`; the model is pruned in place."""
