"""Recipes of the systems that compress models."""
