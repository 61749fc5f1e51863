"""Machines that are not at hand, simulated. Whatever they say is modelled."""
