"""What an extension of the vocabulary adds, and how much of a corpus it covers."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.text.merging import merge
from dimts.text.normaliser import Normaliser, UnknownCharacters
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import SPACE


class UnknownCharacter(Config):
    """A character that no rule of the language brings into its alphabet.

    Attributes:
        character: itself.
        count: how often it is there.
        example: a text that holds it.
    """

    character: str
    count: int
    example: str


class MergeReport(Config):
    """What an extension adds, and what it covers.

    Attributes:
        language, name: code and name of the new language.
        base_languages: codes that were there.
        n_base, n_vocab: tokens before and after.
        start: token that texts of the language begin with; new unless the base has it.
        added: characters that are new.
        shared: characters of the language that the base has already; they keep its ids.
        subwords: new tokens of more than one character.
        texts: number of texts looked at.
        characters: characters in them, spaces not counted.
        coverage: share of these that texts of the language may hold, once normalised.
        base_coverage: share of these that the base has tokens for.
        unknown: what stays unknown, the most frequent first.
        tokens_a_text: mean number without and with sub-words; None without texts.
    """

    language: str
    name: str
    base_languages: tuple[str, ...]
    n_base: int
    n_vocab: int
    start: str
    added: tuple[str, ...]
    shared: tuple[str, ...]
    subwords: tuple[str, ...]
    texts: int
    characters: int
    coverage: float | None
    base_coverage: float | None
    unknown: tuple[UnknownCharacter, ...]
    tokens_a_text: tuple[float, float] | None

    def lines(self) -> list[str]:
        """For the console."""
        knew = f" (the base speaks {', '.join(self.base_languages)})" if self.base_languages else ""
        lines = [
            f"{self.name} ({self.language}){knew}: {self.n_base} tokens become {self.n_vocab}",
            f"start:   {self.start}",
            f"added:   {len(self.added)} characters {_listed(self.added)}",
            f"shared:  {len(self.shared)} characters {_listed(self.shared)}",
        ]
        if self.subwords:
            lines.append(f"subwords: {len(self.subwords)} {_listed(self.subwords, ' ')}")
        if self.coverage is not None and self.base_coverage is not None:
            lines.append(
                f"covers:  {self.coverage:.2%} of {self.characters} characters in {self.texts} "
                f"texts; the base alone {self.base_coverage:.2%}"
            )
        if self.subwords and self.tokens_a_text:
            without, with_ = self.tokens_a_text
            lines.append(f"tokens a text: {without:.1f} without sub-words, {with_:.1f} with")
        lines += [
            f"unknown: {u.character!r} (U+{ord(u.character):04X}), {u.count} times, as in: "
            f"{u.example:.60}"
            for u in self.unknown
        ]
        return lines


def merge_report(base: Tokenizer, merged: Tokenizer, texts: Sequence[str] = ()) -> MergeReport:
    """What `merge` did.

    Args:
        base, merged: before and after.
        texts: raw texts of the new language to measure coverage on.
    """
    known = merged.spec.languages[-1]
    language, there = known.language, set(base.tokens)
    new = merged.tokens[base.n_vocab :]
    subwords = tuple(t for t in new if len(t) > 1 and t != known.start)
    covered, unknown = _covered(merged.normaliser(language.code), texts)
    letters = "".join(covered).replace(SPACE, "")
    n_unknown = sum(entry.count for entry in unknown)
    n_base_knows = sum(base.knows(c) for c in letters)
    n_base_knows += sum(entry.count for entry in unknown if base.knows(entry.character))
    total = len(letters) + n_unknown
    plain = merge(base, language, known.text) if subwords else merged
    counts = [
        sum(len(t.segment(line)) for line in covered) / max(1, len(covered))
        for t in (plain, merged)
    ]
    return MergeReport(
        language=language.code,
        name=language.name,
        base_languages=base.languages,
        n_base=base.n_vocab,
        n_vocab=merged.n_vocab,
        start=known.start,
        added=tuple(t for t in new if t != known.start and t not in subwords),
        shared=tuple(c for c in language.alphabet if c in there),
        subwords=subwords,
        texts=len(texts),
        characters=total,
        coverage=len(letters) / total if total else None,
        base_coverage=n_base_knows / total if total else None,
        unknown=tuple(sorted(unknown, key=lambda entry: -entry.count)),
        tokens_a_text=(counts[0], counts[1]) if covered else None,
    )


def normalised_texts(normaliser: Normaliser, texts: Iterable[str]) -> list[str]:
    """Texts as the voice reads them, without the characters that no rule covers."""
    return _covered(normaliser, texts)[0]


def _covered(
    normaliser: Normaliser, texts: Iterable[str]
) -> tuple[list[str], list[UnknownCharacter]]:
    """Normalised texts without the characters that no rule covers, and those characters."""
    covered: list[str] = []
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for text in texts:
        rest: str | None = unicodedata.normalize("NFC", text)
        while rest:
            try:
                covered.append(normaliser.normalise(rest))
                break
            except UnknownCharacters as error:
                rest, unknown = _without(rest, error.characters)
                counts.update(unknown)
                examples = dict.fromkeys(unknown, text) | examples
            except UserError:  # nothing to say is left
                break
    return covered, [
        UnknownCharacter(character=c, count=n, example=examples[c]) for c, n in counts.items()
    ]


def _without(text: str, characters: Sequence[str]) -> tuple[str | None, list[str]]:
    """`text` without `characters`, and what was taken out; None if none of them is in it."""
    # The normaliser names letters as it has made them: small ones where case is lower.
    taken = [c for c in text if c in characters or c.lower() in characters]
    if not taken:
        return None, list(characters)
    return "".join(c for c in text if c not in taken), taken


def _listed(tokens: Sequence[str], between: str = "", most: int = 60) -> str:
    shown = between.join(tokens[:most])
    return f"{shown} ..." if len(tokens) > most else shown
