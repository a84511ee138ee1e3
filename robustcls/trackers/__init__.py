"""Trackers log the measurements of a training run, in addition to the history.jsonl that every run writes."""
