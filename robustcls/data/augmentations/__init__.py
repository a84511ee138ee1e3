"""Augmentations, one per file: they work on batches, on the device of the images, with random numbers from the given generator.

An augmentation is a function (x, generator) -> x on float images N,C,H,W in [0, 1], which keeps shape, range and memory format.
One that mixes labels is a function (x, y, generator) -> (x, y), where y are probabilities N,K.
"""
