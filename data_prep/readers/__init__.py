"""Readers of corpora: one file a format, each ``read_X(corpus, language) -> Iterator``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from data_prep.readers.ljspeech import read_ljspeech
from data_prep.utterance import Rejected, Utterance
from dimts.features.config import CorpusConfig

Reader = Callable[[CorpusConfig, str], Iterator[Utterance | Rejected]]

READERS: dict[str, Reader] = {"ljspeech": read_ljspeech}
