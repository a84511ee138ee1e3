"""Objectives: functions (model, x, y, attack) -> Loss, one per file. `attack(model, x, y)` returns adversarial images."""
