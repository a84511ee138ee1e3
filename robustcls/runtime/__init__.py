"""Speed, kept out of the science: devices, precision, memory and the model as attacks search on it."""
