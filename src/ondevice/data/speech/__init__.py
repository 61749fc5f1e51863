"""Spoken data: words, commands, voices and languages that espeak-ng says, made noisy as rooms and streets are."""
