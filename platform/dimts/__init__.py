"""dimts: teach a text-to-speech model a new language, on a laptop or a Ray cluster."""

__version__ = "0.1.0"
