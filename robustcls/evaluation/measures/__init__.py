"""What an evaluation measures beside its attacks, one folder each: `robustcls.core.measures` says what is in it."""
