"""Mel features of a corpus in memory-mapped Arrow files."""
