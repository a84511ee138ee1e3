"""Attacks: (model, x, y, threat, *, ..., generator=None) -> x_adv. One per file; the file's name is the plug-in's name."""
