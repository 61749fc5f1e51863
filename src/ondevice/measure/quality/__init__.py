"""Quality: how good an answer is. NumPy only, and SciPy for exact optimal transport."""
