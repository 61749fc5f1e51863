"""The published systems: a catalogue of all, a recipe for each that is built, and their committed results."""
