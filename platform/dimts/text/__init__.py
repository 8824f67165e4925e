"""Text to token ids: language data files, normaliser, numbers in words, tokenizer, merging."""
