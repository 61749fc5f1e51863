"""Networks that look at pictures, one architecture a file.

Knows modules and the pixels they read. Knows nothing of how they are trained.
"""
