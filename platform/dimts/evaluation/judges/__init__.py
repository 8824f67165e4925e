"""Judges of speech: recogniser, naturalness, speaker, pitch; an extra of the installation."""
