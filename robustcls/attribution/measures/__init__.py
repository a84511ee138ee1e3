"""Measures of attribution maps: how alike, how sparse and how faithful they are, and the controls they must beat."""
