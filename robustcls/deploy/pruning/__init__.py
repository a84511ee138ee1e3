"""Pruning methods, one per file: `(model, images, labels, *, ...) -> None`, in place."""
