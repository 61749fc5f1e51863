"""Pre-inference: once input sizes are known, all is decided before the first run. Source: MNN (Jiang et al. 2020)."""
