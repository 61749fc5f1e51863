"""Choosing the best few of many candidates by a cross-encoder, candidates that are settled early leaving early."""
