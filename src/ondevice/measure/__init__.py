"""Measuring callables and commands: time, memory, quality, comparisons, reports. No backend, no model."""
