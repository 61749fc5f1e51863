"""Devices: profiles with sourced figures, budgets, and the time and energy that a profile implies."""
