"""Serves artefacts: Open Inference Protocol v2 over HTTP, health, metrics, drift. Never imports torch."""
