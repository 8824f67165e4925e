"""What an extension of the vocabulary adds, and how much of a corpus it covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dimts.core.errors import UserError
from dimts.text.merging import merge
from dimts.text.normaliser import Normaliser, UnknownCharacters
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import SPACE
from dimts.text.unknown import without_unknown

Unknown = list[tuple[str, int, str]]
"""Characters that no rule of a language covers: how often each is there, a text that holds it."""


def merge_report(base: Tokenizer, merged: Tokenizer, texts: Sequence[str] = ()) -> list[str]:
    """What `merge` did, in lines for the console.

    Of raw `texts` of the new language the share of characters is told that the new tokenizer
    knows, and the base; spaces are not counted.
    """
    known = merged.spec.languages[-1]
    language, there = known.language, set(base.tokens)
    new = [token for token in merged.tokens[base.n_vocab :] if token != known.start]
    added = [token for token in new if len(token) == 1]
    shared = [character for character in language.alphabet if character in there]
    knew = f" (the base speaks {', '.join(base.languages)})" if base.languages else ""
    lines = [
        f"{language.name} ({language.code}){knew}: {base.n_vocab} tokens become {merged.n_vocab}",
        f"start:   {known.start}",
        f"added:   {len(added)} characters {listed(added)}",
        f"shared:  {len(shared)} characters {listed(shared)}",
    ]
    if subwords := [token for token in new if len(token) > 1]:
        lines.append(f"subwords: {len(subwords)} {listed(subwords, ' ')}")
    covered, unknown = normalised_texts(merged.normaliser(), texts)
    characters = Counter("".join(covered).replace(SPACE, ""))
    n_covered = characters.total()
    characters.update({character: n for character, n, _ in unknown})
    if n := characters.total():
        n_base = sum(count for character, count in characters.items() if base.knows(character))
        lines.append(
            f"covers:  {n_covered / n:.2%} of {n} characters in {len(texts)} texts; "
            f"the base alone {n_base / n:.2%}"
        )
    if subwords and covered:
        plain = merge(base, language, known.text)
        without, with_ = (
            sum(len(t.segment(line)) for line in covered) / len(covered) for t in (plain, merged)
        )
        lines.append(f"tokens a text: {without:.1f} without sub-words, {with_:.1f} with")
    return lines + [
        f"unknown: {character!r} (U+{ord(character):04X}), {n} times, as in: {example:.60}"
        for character, n, example in unknown
    ]


def normalised_texts(normaliser: Normaliser, texts: Iterable[str]) -> tuple[list[str], Unknown]:
    """Texts as the voice reads them without the characters that no rule covers, and those."""
    covered: list[str] = []
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for text in texts:
        rest = text
        while rest:
            try:
                covered.append(normaliser.normalise(rest))
                break
            except UnknownCharacters as error:
                rest, taken = without_unknown(rest, error)
                counts.update(taken)
                examples = dict.fromkeys(taken, text) | examples
            except UserError:  # nothing to say is left
                break
    return covered, [(c, n, examples[c]) for c, n in counts.most_common()]


def listed(tokens: Sequence[str], between: str = "", most: int = 60) -> str:
    """The first of some tokens."""
    shown = between.join(tokens[:most])
    return f"{shown} ..." if len(tokens) > most else shown
