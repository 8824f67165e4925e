"""The vocoder family: log-mel spectrogram to wave, harmonics plus noise."""
