"""RTL in Amaranth, each beside its bit-accurate model."""
