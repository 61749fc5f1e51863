"""Recipes of the systems that measure devices or shape hardware for models."""
