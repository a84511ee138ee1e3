"""Encoded images to pixels. Never imports torch."""
