"""Trackers keep what a run measures, each in its own log, beside the history.jsonl that every run writes."""
