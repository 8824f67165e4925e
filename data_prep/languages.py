"""The languages of a corpus: that of `text`, and those of `corpus.languages`, told by the row."""

from __future__ import annotations

from data_prep.utterance import Utterance
from dimts.features.config import CorpusConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer


def corpus_tokenizer(corpus: CorpusConfig, text: TextConfig) -> Tokenizer:
    """The alphabets of all languages; that of `text`, whose switches are its own alone, comes last.

    Raises:
        ConfigError: there is no such language.
    """
    own = load_language(text.language)
    others = {code: load_language(code) for code in corpus.languages if code != own.code}
    read = [(language, TextConfig(language=code)) for code, language in others.items()]
    return Tokenizer.from_languages([*read, (own, text)])


def language_of_row(utterance: Utterance, tokenizer: Tokenizer) -> str:
    """Code of the language by which a row is read."""
    known = tokenizer.languages
    return utterance.language if utterance.language in known else known[-1]
