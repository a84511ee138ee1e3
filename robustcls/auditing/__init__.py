"""The audit of a data set: label errors, duplicates, confusing pairs, images near the boundary, and their correction."""
