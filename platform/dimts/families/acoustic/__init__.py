"""The acoustic family: text to log-mel spectrogram, with the alignment learned."""
