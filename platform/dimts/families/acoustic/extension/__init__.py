"""A new language on an old voice: what its tokens start from."""
