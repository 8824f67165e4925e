"""Corpus -> checked utterances -> mel features in Arrow files."""
