"""Measures of an evaluation besides the attacks, one folder each; `robustcls.core.measures` says what a folder contains."""
