"""Clean and robust accuracy, with what a reader needs to believe them."""
