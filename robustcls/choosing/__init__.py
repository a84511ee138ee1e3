"""The choice among several recipes in a given time: successive halving, and what its table may claim."""
