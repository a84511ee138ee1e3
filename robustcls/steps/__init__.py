"""Steps own the update: (state, x, y) -> Loss. What keeps something from batch to batch is a step, not a bent attack."""
