"""Where a model's tensors come from."""
