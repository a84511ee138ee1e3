"""Training: the loop, the run that it drives, and what a run folder holds."""
