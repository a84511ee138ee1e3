"""Objectives: (model, x, y, attack) -> Loss. One per file; `attack(model, x, y)` gives the adversarial images."""
