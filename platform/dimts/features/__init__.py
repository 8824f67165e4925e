"""What extractors made of a corpus, in memory-mapped Arrow files."""
