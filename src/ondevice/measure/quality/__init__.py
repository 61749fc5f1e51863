"""Quality: how good an answer is. NumPy only."""
