"""dimts: teach a text-to-speech model a new language, on a laptop or a Ray cluster."""

__version__ = "0.1.0"

from dimts.core.caches import choose_caches

choose_caches()
