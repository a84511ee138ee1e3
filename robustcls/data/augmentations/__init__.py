"""Augmentations: batched, on the images' device, every draw from the generator that is given. One a file.

(x, generator) -> x, with float images N,C,H,W in [0, 1] of the same shape, range and memory format; or, where labels are
mixed, (x, y, generator) -> (x, y) with y as probabilities N,K.
"""
