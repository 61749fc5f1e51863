"""Recipes: engines that make large models fit, stream, share and overlap."""
