"""Augmentations, one per file: batched, on the device of the images, random numbers from the given generator.

(x, generator) -> x, with float images N,C,H,W in [0, 1] of the same shape, range and memory format; or, where labels are
mixed, (x, y, generator) -> (x, y) with y as probabilities N,K.
"""
