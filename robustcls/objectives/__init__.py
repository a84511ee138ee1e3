"""Objectives: (model, x, y, attack) -> Loss. One a file; `attack(model, x, y)` gives the adversarial images."""
