"""Which frames each token of a text was spoken in, learned from the corpus alone."""
