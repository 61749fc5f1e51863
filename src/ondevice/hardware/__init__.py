"""Arithmetic units and engines: bit-accurate models, RTL, and what synthesis says they cost."""
