"""Orders of reading and computing."""
