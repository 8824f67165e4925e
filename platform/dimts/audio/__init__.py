"""Waves and mels: the one mel of the project, audio files, trimming, Griffin-Lim."""
