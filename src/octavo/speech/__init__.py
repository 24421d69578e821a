"""What lies between an audio file and a speech model, and between its text and a subtitle file."""

SAMPLE_RATE = 16_000
"""Samples per second of all audio after decoding: mono, float32, within about -1..1."""
