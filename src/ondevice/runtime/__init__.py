"""The transformer engine: NumPy and the kernels, never torch."""
