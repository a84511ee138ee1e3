"""Architectures, checkpoints and foreign weights."""
