"""What Unicode's CLDR knows of a language, asked of ICU (the extra `language`)."""

from __future__ import annotations

import random
import re
import unicodedata
from typing import Any

from dimts.core.errors import UserError
from dimts.text.spellout import BASE, LARGEST_BY_RULES, SUBSTITUTION, RuleSets, Spellout

SET = re.compile(r"^(%%?[\w-]+):\n?((?:(?!%)[^\n]*\n?)*)", re.MULTILINE)
RULE = re.compile(r"^(\d+)(?:/(\d+))?: ?(.*);$", re.MULTILINE)
PLURAL = re.compile(r"\$\(cardinal,(.*?)\)\$")
CASE = re.compile(r"(\w+)\{(.*?)\}")
NUMBERING = "%spellout-numbering"
N_CHECKED = 500
CURRENCIES = {
    **{"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY", "₹": "INR", "₺": "TRY", "₽": "RUB"},
    **{"₾": "GEL", "₴": "UAH", "₩": "KRW", "₪": "ILS", "฿": "THB", "₫": "VND", "₦": "NGN"},
}


def icu() -> Any:
    """PyICU's module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import icu
    except ImportError as error:
        raise UserError(
            "dimts language needs ICU: pip install 'dimts[language]' (icukit-pyicu), or PyICU"
        ) from error
    return icu


class Cldr:
    """A language of CLDR; `known` is False where it has none of that code."""

    def __init__(self, code: str):
        self._icu = icu()
        self._locale = self._icu.Locale(code)
        self.code = code
        self.known = code in {
            self._icu.Locale(name).getLanguage() for name in self._icu.Locale.getAvailableLocales()
        }
        self.version = f"CLDR of ICU {self._icu.ICU_VERSION}"
        self.name = str(self._locale.getDisplayLanguage(self._locale)) or code
        self.english = str(self._locale.getDisplayLanguage(self._icu.Locale("en"))) or code

    def characters(self, kind: int) -> list[str]:
        """Exemplar characters in the composed form: 0 main, 1 auxiliary, 3 punctuation."""
        if not self.known:
            return []
        exemplars = map(str, self._icu.LocaleData(self.code).getExemplarSet(0, kind))
        return list(dict.fromkeys("".join(unicodedata.normalize("NFC", e) for e in exemplars)))

    def has_property(self, name: str, character: str) -> bool:
        """Whether a character is in ICU's set of a property, such as ``STerm``."""
        return bool(self._icu.UnicodeSet(f"[:{name}:]").contains(character))

    def transliterator(self, rules: str) -> Any:
        """A function of a text; None where ICU has no such transform."""
        try:
            return self._icu.Transliterator.createInstance(rules).transliterate
        except self._icu.ICUError:
            return None

    def upper(self, letter: str) -> str:
        """The capital of a letter as the language has it."""
        return str(self._icu.UnicodeString(letter).toUpper(self._locale))

    def lower(self, text: str) -> str:
        """A text in small letters as the language has them."""
        return str(self._icu.UnicodeString(text).toLower(self._locale))

    def separators(self) -> tuple[str, str]:
        """Decimal and group separator; any space is a plain one."""
        symbols = self._icu.DecimalFormatSymbols(self._locale)
        kinds = self._icu.DecimalFormatSymbols
        decimal, group = (
            str(symbols.getSymbol(kind))
            for kind in (kinds.kDecimalSeparatorSymbol, kinds.kGroupingSeparatorSymbol)
        )
        return decimal, " " if group.isspace() else group

    def number_words(self) -> RuleSets:
        """Rules of cardinals as they count, below 10^12; empty where CLDR has none for it."""
        spelled = self._spelled()
        if spelled is None:
            return {}
        found = {match[1]: match[2] for match in SET.finditer(spelled.getRules())}
        sets: dict[str, dict[str, str]] = {}
        waiting = [NUMBERING]
        while waiting:
            if (name := waiting.pop()) in sets:
                continue
            sets[name] = {}
            for base, radix, text in RULE.findall(found.get(name, "")):
                if int(base) > LARGEST_BY_RULES:
                    continue
                text = unicodedata.normalize("NFC", text.removeprefix("'").replace("\xad", ""))
                text = PLURAL.sub(lambda match: self._plural(match[1], sets), text)
                sets[name][f"{base}/{radix}" if radix else base] = text
                waiting += [other for _, other in SUBSTITUTION.findall(text)]
        while len(first := next(iter(sets.values()))) == 1 and (
            only := re.fullmatch(r"=(%%?[\w-]+)=", first.get("0", ""))
        ):
            del sets[next(iter(sets))]
            sets = {only[1]: sets[only[1]], **sets}
        return _short_names(sets) if self._agree(spelled, sets) else {}

    def sign_words(self) -> tuple[str, str]:
        """Words of a minus and of the decimal point; none where fractions are said otherwise."""
        spelled = self._spelled()
        assert spelled is not None
        three = str(spelled.format(3))
        minus, fraction = str(spelled.format(-3)), str(spelled.format(3.3))
        plain = fraction.startswith(three) and fraction.endswith(three)
        point = fraction[len(three) : -len(three)] if plain else ""
        return minus.replace(three, "").strip("\xad "), point.strip("\xad ")

    def unit_words(self) -> dict[str, str]:
        """Mark -> name: per cent, degrees, currencies, and."""
        if not self.known:
            return {}
        wide = self._icu.UNumberUnitWidth.FULL_NAME
        formatter = self._icu.NumberFormatter.withLocale(self._locale).unitWidth(wide)
        words = {}
        units = {"%": self._icu.MeasureUnit.forIdentifier("percent"),
                 "°": self._icu.MeasureUnit.forIdentifier("degree")}  # fmt: skip
        units |= {mark: self._icu.CurrencyUnit(name) for mark, name in CURRENCIES.items()}
        for mark, unit in units.items():
            said = str(formatter.unit(unit).formatInt(5))
            word = " ".join(re.sub(r"\d+([.,٫]\d+)?", "", said).split())
            if any(c.isalpha() for c in word):
                words[mark] = word
        pair = str(self._icu.ListFormatter.createInstance(self._locale).format(["0", "1"]))
        words["&"] = pair[1:-1].strip()
        return words

    def _spelled(self) -> Any:
        """ICU's number words; None where it would speak another language's."""
        tag = self._icu.URBNFRuleSetTag.SPELLOUT
        spelled = self._icu.RuleBasedNumberFormat(tag, self._locale)
        actual = spelled.getLocale(self._icu.ULocDataLocaleType.ACTUAL_LOCALE)
        return spelled if actual.getLanguage() == self._locale.getLanguage() else None

    def _plural(self, cases: str, sets: dict[str, dict[str, str]]) -> str:
        """A substitution by a set of its own that has a noun's form for each count."""
        forms: dict[str, str] = dict(CASE.findall(cases))
        name = "%" + "-".join(re.findall(r"\w+", " ".join(forms.values())))
        if name not in sets:
            plurals = self._icu.PluralRules.forLocale(self._locale)
            form = [forms.get(str(plurals.select(n)), forms["other"]) for n in range(200)]
            runs = [
                {str(n): part[n] for n in range(100) if n == 0 or part[n] != part[n - 1]}
                for part in (form[:100], form[100:])
            ]
            last = name if form[:100] == form[100:] else f"{name}-100"
            sets[last] = runs[1]
            sets[name] = {**runs[0], "100": f">{last}>"}
        return f"<{name}<"

    @staticmethod
    def _agree(spelled: Any, sets: RuleSets) -> bool:
        """Whether `Spellout` says what ICU says."""
        if not all(BASE.fullmatch(base) for texts in sets.values() for base in texts):
            return False
        ours, draw = Spellout(sets), random.Random(0)
        drawn = [draw.randrange(10 ** draw.randint(3, 12)) for _ in range(N_CHECKED)]
        for number in (*range(1101), *(10**n for n in range(3, 12)), *drawn):
            theirs = unicodedata.normalize("NFC", str(spelled.format(number))).replace("\xad", "")
            try:
                same = ours.words(number) == " ".join(theirs.split())
            except LookupError:
                same = False
            if not same or any(c.isdecimal() for c in theirs):
                return False
        return True


def _short_names(sets: RuleSets) -> RuleSets:
    """The same rules, as %masculine for %spellout-cardinal-masculine where that is one set's."""
    short = {name: re.sub(r"^%+(spellout-)?(cardinal-)?", "%", name) for name in sets}
    if len({*short.values()}) < len(short):
        return sets

    def renamed(text: str) -> str:
        return SUBSTITUTION.sub(lambda m: f"{m[1]}{short[m[2]]}{m[1]}", text)

    return {short[name]: {b: renamed(t) for b, t in texts.items()} for name, texts in sets.items()}
