"""Whole engines, bit-accurate."""
