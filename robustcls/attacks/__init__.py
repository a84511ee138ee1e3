"""Attacks: (model, x, y, threat, *, ..., generator=None) -> x_adv. Most files hold one attack and bear its name."""
