"""What was found: records, statistics, comparison, policy; never imports torch."""
