"""Results of an evaluation: records, statistics, comparison, policy; never imports torch."""
