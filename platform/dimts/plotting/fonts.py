"""Which fonts draw a text: matplotlib's own has no Ethiopic, and a bare machine has no other."""

from __future__ import annotations

from functools import cache
from pathlib import Path

SHIPPED = sorted(Path(__file__).with_name("font_files").glob("*.ttf"))
BASE = "DejaVu Sans"  # Inside matplotlib.
LATIN = 0x24F  # Every machine has these characters.


@cache
def families(text: str) -> list[str]:
    """Font families, best first, that together have the characters of `text`.

    Matplotlib's own font, then those that we ship, then any font of the system.
    """
    from matplotlib import font_manager

    own = _own_families()
    chosen, missing = list(own), {character for character in text if not character.isspace()}
    for path in own.values():
        missing = _lacking(missing, path)
    for entry in font_manager.fontManager.ttflist if missing else ():
        # The font of last resort has a box for every character there is.
        if entry.style == "normal" and not entry.name.startswith("Last Resort"):
            left = _lacking(missing, entry.fname)
            if left < missing:
                chosen.append(entry.name)
                missing = left
    return chosen


def shipped_for(text: str) -> list[Path]:
    """Files of those of our own fonts that have characters of `text` that others may lack."""
    odd = {character for character in text if ord(character) > LATIN}
    return [path for path in SHIPPED if _lacking(odd, str(path)) < odd]


@cache
def _own_families() -> dict[str, str]:
    """Family -> file of the fonts that every machine has; makes ours known to matplotlib."""
    from matplotlib import font_manager

    base = font_manager.FontProperties(family=[BASE])
    files = {BASE: str(font_manager.findfont(base, fallback_to_default=False))}
    for path in SHIPPED:
        font_manager.fontManager.addfont(path)
        files[font_manager.FontProperties(fname=path).get_name()] = str(path)
    return files


def _lacking(characters: set[str], path: str) -> set[str]:
    """Those that a font does not have."""
    return {character for character in characters if ord(character) not in _characters(path)}


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())
