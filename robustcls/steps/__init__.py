"""Steps own the update: (run, x, y) -> Loss. What keeps state from batch to batch is a step, not a bent attack."""
