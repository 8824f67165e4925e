"""A language's two files, drafted from CLDR and the texts of a corpus."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dimts.text.cldr import Cldr
from dimts.text.spellout import SUBSTITUTION, Spellout

MARKS = "?!.;:,"
"""Of every language, the strongest first; those of other scripts stand with theirs."""
APOSTROPHES = "’‘ʼ`´"
OWN_LETTER, OWN_MARK, APOSTROPHE = 0.01, 0.05, 0.005
"""Share of the texts that have a letter with an accent, a mark alone, or ' in a word, from which on
it belongs to the alphabet though CLDR does not list it; `FEWEST` texts at least."""
FEWEST = 3
SLASHED = re.compile(r"(?<![\d/])\d{1,3}/\d{1,4}(?![\d/])")
PLAIN: dict[str, str] = {
    **dict.fromkeys("“”„«»‹›\"¿¡*_", " "),
    **dict.fromkeys("()[]{}", ", "),
    **{" - ": ", ", "--": ", ", "–": ", ", "—": ", ", "…": "."},
    **dict.fromkeys("-‐‑/", " "),
}  # fmt: skip
SOUNDS = {"sh": "ş", "ch": "ç", "zh": "j", "š": "ş", "ś": "ş", "ṣ": "ş", "č": "ç", "ć": "ç",
          "ž": "j", "ŋ": "ng", "ṅ": "ng", "ə": "e", "ɨ": "ı"}  # fmt: skip
"""Sounds of Latin transcriptions as letters of Turkish, which the shipped base has."""
NEAR = {"c": "k", "e": "ē", "f": "p", "o": "ō", "q": "k", "w": "v", "x": "ks", "y": "i"}
"""For letters that a script has no letter for."""
LATIN = "abcdefghijklmnopqrstuvwxyz"


class Draft(NamedTuple):
    """Two files' values, where they come from, and what a person should look at."""

    language: dict[str, Any]
    transliteration: dict[str, Any]
    sources: list[str]
    unsure: list[str]


def draft_language(code: str, texts: Sequence[str], base_letters: Collection[str]) -> Draft:
    """What a language's files may hold.

    Args:
        texts: raw, of a corpus.
        base_letters: of the voice that it is added to, which need no spelling.

    Raises:
        UserError: ICU is not installed.
    """
    return _Drafting(code, texts, base_letters).draft()


def is_letter(character: str) -> bool:
    """A letter, or a mark that stands at one."""
    return unicodedata.category(character)[0] in "LM"


def kind_of_mark(mark: str) -> int:
    """The mark of `MARKS` that another one is most like, as an index."""
    name = unicodedata.name(mark, "")
    kinds = ("QUESTION", "EXCLAMATION", "FULL STOP|DANDA|ELLIPSIS", "SEMICOLON", "COLON", "")
    return next(i for i, kind in enumerate(kinds) if re.search(kind, name))


class _Drafting:
    def __init__(self, code: str, texts: Sequence[str], base_letters: Collection[str]):
        self.cldr = Cldr(code)
        self.base_letters = frozenset(base_letters)
        self.texts = [unicodedata.normalize("NFC", text) for text in texts]
        self.rows = Counter(c for text in self.texts for c in set(text.lower()))
        self.sources: list[str] = []
        self.unsure: list[str] = []
        self.replacements = dict(PLAIN)
        self.letters: list[str] = []

    def draft(self) -> Draft:
        own = self._alphabet()
        self._apostrophe()
        marks = self._marks()
        numbers, symbols = self._numbers(), self._symbols(marks)
        capitals = self._capitals()
        self._other_scripts(own)
        self._rest(marks, symbols)
        cldr = self.cldr
        language: dict[str, Any] = {
            "name": cldr.name,
            "code": cldr.code,
            "letters": _ranges(sorted(self.letters)),
            "punctuation": marks,
            "case": "keep" if capitals else "lower",
            "replacements": {**capitals, **self.replacements},
        }
        if numbers:
            language["numbers"] = numbers
            currencies = {m: w for m, w in symbols.items() if unicodedata.category(m) == "Sc"}
            language["units_before"] = currencies
        language["symbols"] = symbols
        spelled = self._spelled(marks)
        transliteration = {"language": cldr.code, "letters": spelled}
        return Draft(language, transliteration, self.sources, self.unsure)

    def _seen(self, characters: Iterable[str]) -> str:
        return ", ".join(f"{_shown(c)} in {self.rows[c]} rows" for c in characters)

    def _is_rare(self, character: str, share: float) -> bool:
        return self.rows[character] < max(FEWEST, share * len(self.texts))

    def _alphabet(self) -> str:
        """Fill `letters`; the script that they are of."""
        cldr = self.cldr
        main = [c for c in cldr.characters(0) if is_letter(c) and c.lower() == c]
        scripts = Counter(_script(c) for c in main or self.rows.elements() if c.isalpha())
        own = scripts.most_common(1)[0][0] if scripts else ""
        self.letters = main
        added = []
        for c in sorted(c for c in self.rows if is_letter(c) and c not in {*main, *APOSTROPHES}):
            plain = unicodedata.normalize("NFD", c)[0]
            alone = unicodedata.category(c)[0] == "M"
            if not alone and _script(c) != own:
                continue
            if alone and self._is_rare(c, OWN_MARK):
                self.replacements[c] = ""
                self.unsure.append(f"{_shown(c)} is left out: {self._seen(c)}")
            elif plain != c and plain in main and self._is_rare(c, OWN_LETTER):
                self.replacements[c] = plain
            else:
                added.append(c)
        self.letters = [*main, *added]
        more = f", {len(added)} more of the corpus: {' '.join(map(_shown, added))}" if added else ""
        self.sources.append(f"letters   {len(main)} of {cldr.version}{more}")
        if not main:
            self.unsure.append(f"CLDR has no {cldr.code}: the alphabet is what the corpus has")
        if never := [c for c in main if not self.rows[c]]:
            shown = " ".join(map(_shown, never[:30]))
            self.unsure.append(f"{len(never)} letters are never heard in the corpus: {shown}")
        return own

    def _apostrophe(self) -> None:
        """A letter where it stands inside words."""
        inside = re.compile(rf"\w['{APOSTROPHES}]\w")
        share = sum(bool(inside.search(text)) for text in self.texts) / max(1, len(self.texts))
        of_cldr = {"'", *APOSTROPHES} & set(self.cldr.characters(0))
        is_letter_here = bool(of_cldr) or share >= APOSTROPHE
        self.letters = [c for c in self.letters if c not in APOSTROPHES]
        self.letters += ["'"] * is_letter_here
        variants = APOSTROPHES if is_letter_here else "'" + APOSTROPHES
        self.replacements |= dict.fromkeys(variants, "'" if is_letter_here else "")
        if is_letter_here:
            self.sources.append(f"letters   ', inside a word in {share:.1%} of the corpus's rows")

    def _marks(self) -> str:
        cldr, seen = self.cldr, {*self.cldr.characters(3), *self.rows}
        more = [
            c for c in seen
            if cldr.has_property("Terminal_Punctuation", c) and c not in MARKS and c not in PLAIN
        ]  # fmt: skip
        if more:
            self.sources.append(f"marks     beside {MARKS} {' '.join(sorted(more))}")
        order = {c: (kind_of_mark(c), c not in MARKS, c) for c in (*MARKS, *more)}
        return "".join(sorted(order, key=order.__getitem__))

    def _capitals(self) -> dict[str, str]:
        """Capital -> small letter, where it is not that of other languages; else none."""
        pairs = {up: c for c in self.letters if len(up := self.cldr.upper(c)) == 1 and up != c}
        return pairs if any(up.lower() != c for up, c in pairs.items()) else {}

    def _numbers(self) -> dict[str, Any]:
        cldr = self.cldr
        if not (rules := cldr.number_words()):
            digits = sum(any(c.isdecimal() for c in text) for text in self.texts)
            self.sources.append(f"numbers   none: CLDR has no number words of {cldr.english}")
            self.unsure.append(
                f"{digits} rows have digits, which no rule reads: add numbers to the file, as "
                "docs/adapting-a-language.md says, or write them out in the corpus"
            )
            return {}
        spelled = {name: {b: self._rule(t) for b, t in r.items()} for name, r in rules.items()}
        minus, point = (self._said(word) for word in cldr.sign_words())
        decimal, group = cldr.separators()
        if not point:
            point = decimal if decimal in MARKS else ","
            self.unsure.append("the decimal point has no word, a pause is made: numbers.point")
        words = Spellout(spelled)
        self.sources.append(
            f"numbers   {cldr.version}, as one counts: "
            + ", ".join(f"{n} {words.words(n)}" for n in (21, 105, 1983))
        )
        self.unsure.append("numbers are read as one counts, in one gender and case")
        if rows := sum(bool(SLASHED.search(text)) for text in self.texts):
            self.unsure.append(
                f"{rows} rows have numbers such as 1/2, read as two: list what is a fraction in "
                "numbers.fractions"
            )
        return {
            "units": [words.words(n) for n in range(10)],
            "rules": spelled,
            "minus": minus or words.words(0),
            "point": point,
            "decimal_separator": decimal,
            "group_separator": group,
        }

    def _rule(self, text: str) -> str:
        said, end = [], 0
        for match in SUBSTITUTION.finditer(text):
            said += [self._said(text[end : match.start()]), match[0]]
            end = match.end()
        return "".join([*said, self._said(text[end:])])

    def _said(self, words: str) -> str:
        """Words in letters of the alphabet, to which it adds those that are missing."""
        said = []
        for c in unicodedata.normalize("NFC", self.cldr.lower(words)):
            if is_letter(c) and c not in self.letters and c not in self.replacements:
                self.letters.append(c)
                self.sources.append(f"letters   {_shown(c)}, of CLDR's words")
            known = c.isspace() or c in self.letters or c in MARKS
            said.append(c if known else self.replacements.get(c, " "))
        return "".join(said)

    def _symbols(self, marks: str) -> dict[str, str]:
        words = {
            mark: said
            for mark, word in self.cldr.unit_words().items()
            if mark in "%°&€$" or self.rows[mark]
            if (said := " ".join(self._said(word).split())) and not set(said) & set(marks)
        }
        if words:
            shown = ", ".join(f"{mark} {word}" for mark, word in words.items())
            self.sources.append(f"symbols   {self.cldr.version}: {shown}")
        return words

    def _other_scripts(self, own: str) -> None:
        """Spell the corpus's letters of other scripts in those of the alphabet."""
        foreign = sorted(
            c for c in self.rows
            if c.isalpha() and c not in {*self.letters, *self.replacements, *APOSTROPHES}
        )  # fmt: skip
        if not foreign:
            return
        to_latin = self.cldr.transliterator("Any-Latin; Latin-ASCII; Lower")
        to_own = None if own == "LATIN" else self.cldr.transliterator(f"Latin-{own.title()}")

        def spell(c: str) -> str:
            latin = to_latin(c)
            for text in (latin, "".join(NEAR.get(x, x) for x in latin)):
                if own != "LATIN":
                    text = to_own(text) if to_own else ""
                text = unicodedata.normalize("NFC", text)
                if text and set(text) <= {*self.letters}:
                    return text
            return ""

        latin = [*LATIN] if any(_script(c) == "LATIN" for c in foreign) else []
        spelled = {c: spell(c) for c in dict.fromkeys([*foreign, *latin]) if c not in self.letters}
        self.replacements |= {c: said for c, said in spelled.items() if said}
        rows = sum(any(c in foreign for c in text.lower()) for text in self.texts)
        self.sources.append("foreign   letters of other scripts, by ICU's transforms")
        self.unsure.append(
            f"letters of other scripts, in {rows} rows, are replaced one by one, not as their "
            f"words sound: {self._seen(foreign[:8])}"
        )

    def _rest(self, marks: str, symbols: Mapping[str, str]) -> None:
        """Quotes, brackets and other characters of the corpus that no rule has a word for."""
        known = {*self.letters, *marks, *symbols, *self.replacements, *APOSTROPHES}
        silent = []
        for c in sorted({*self.rows, *self.cldr.characters(3), *self.cldr.characters(0)}):
            category = unicodedata.category(c)
            if c in known or is_letter(c) or category[0] in "NZC" or category in ("Sm", "Sc"):
                continue
            self.replacements[c] = ", " if category in ("Ps", "Pe") else " "
            if self.rows[c] and category not in ("Pi", "Pf", "Ps", "Pe", "Pd"):
                silent.append(c)
        if silent:
            self.unsure.append(f"read as a space: {self._seen(silent)}")

    def _spelled(self, marks: str) -> dict[str, str]:
        """Character -> letters of the base, of those that it lacks."""
        virama = next((c for c in self.letters if unicodedata.combining(c) == 9), "")
        to_latin = self.cldr.transliterator("Any-Latin; Lower")
        spelled, unknown = {}, []
        for c in (*marks, *self.letters):
            if c in self.base_letters:
                continue
            if c in marks:
                spelled[c] = MARKS[kind_of_mark(c)]
                continue
            bare = to_latin(c + virama) if virama and unicodedata.category(c) == "Lo" else ""
            latin = min((x for x in (bare, to_latin(c)) if x), key=len, default="")
            text = unicodedata.normalize("NFC", latin)
            if virama:
                text = re.sub("c(?!h)", "ç", text)
            for sound, letter in SOUNDS.items():
                text = text.replace(sound, letter)
            spelled[c] = "".join(map(self._of_base, text))
            if not spelled[c] and unicodedata.category(c) != "Mn":
                unknown.append(c)
        if any(spelled.values()):
            shown = ", ".join(f"{_shown(c)} {said}" for c, said in itertools.islice(
                (item for item in spelled.items() if item[1]), 6))  # fmt: skip
            self.sources.append(f"spelled   by ICU's Any-Latin, in the base's letters: {shown} ...")
        if unknown:
            self.unsure.append(f"no spelling in the base's letters: {' '.join(unknown[:30])}")
        return spelled

    def _of_base(self, letter: str) -> str:
        plain = unicodedata.normalize("NFD", letter)[0]
        return next((c for c in (letter, plain) if c in self.base_letters and is_letter(c)), "")


def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def _shown(character: str) -> str:
    mark = unicodedata.category(character)[0] == "M"
    return f"U+{ord(character):04X}" if mark else character


def _ranges(letters: Iterable[str]) -> list[str]:
    """Sorted characters as the entries of `Language.letters`."""
    entries: list[str] = []
    others = ""
    runs = itertools.groupby(enumerate(dict.fromkeys(letters)), lambda item: ord(item[1]) - item[0])
    for _, run in runs:
        characters = "".join(c for _, c in run)
        if len(characters) > 3:
            entries.append(f"{characters[0]}-{characters[-1]}")
        else:
            others += characters
    # Not of three characters with a - in the middle, and no mark right behind its letter.
    marks = "".join(c for c in others if unicodedata.combining(c))
    return [*entries, *filter(None, ["".join(c for c in others if c not in marks), marks])]
