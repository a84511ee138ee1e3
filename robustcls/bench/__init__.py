"""Benchmarks of this machine: the speed of training, attacks and explanations, compared with a large matrix product.

Comparisons with other libraries are in the repository, under experiments/contests.
"""
