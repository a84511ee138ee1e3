"""Helpers for several test files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # root of the repository
