"""Speed on this machine: training, attacks and explanations beside the rate of a large matrix product.

Comparisons with other libraries are in the repository, under experiments/contests.
"""
