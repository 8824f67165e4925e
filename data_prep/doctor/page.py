"""The report of a corpus as one HTML page: no script, nothing from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from data_prep.doctor.measure import NOISY_SNR_DB
from dimts.core.untrusted import printable

MAX_TEXT, MAX_LISTED = 300, 100
BARS = 30
MISFIT, CLIPPED, NARROW = 1.0, 0.001, 0.8
"""Rows above and below these are counted under "What to look at"."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } td.n { text-align: right }
figure { display: inline-block; margin: .5rem 1rem .5rem 0 } figcaption { font-size: 13px }
rect { fill: #47a } audio { height: 2rem; width: 16rem }
"""
_HISTOGRAMS = (
    ("seconds", "length, s"),
    ("characters_per_second", "characters a second"),
    ("loudness_db", "loudness of speech, dBFS"),
    ("snr_db", "speech over noise, dB"),
    ("bandwidth_hz", "bandwidth, Hz"),
    ("misfit", "misfit of text and audio"),
)


def page(report: dict[str, Any]) -> str:
    """One HTML document; players name files beside it."""
    rows = report["rows"]
    n_used, n_rows = report["n_used"], report["n_rows"]
    facts = [
        ("used", f"{n_used} of {n_rows} rows, {report['hours']:.2f} h"),
        ("speakers", ", ".join(f"{k} ({v:.2f} h)" for k, v in report["speakers"].items())),
        *((f"refused: {reason}", str(n)) for reason, n in report["refused"].items()),
    ]
    parts = [
        _table(("", ""), facts),
        "<h2>What to look at</h2>",
        _table(("", "rows"), _findings(report)),
        "<h2>Distributions</h2>",
        *(_histogram([row[key] for row in rows], title) for key, title in _HISTOGRAMS),
        _table(
            ("sample rate, Hz", "recordings", "bandwidth (median), Hz"),
            [
                (r["hz"], r["recordings"], f"{r['bandwidth_hz']:.0f}")
                for r in report["sample_rates"]
            ],
        ),
        "<h2>Texts that fit their recordings worst</h2>",
        "<p>0: no text would fit better; 1: another text fits as well.</p>",
        _worst(rows),
        "<h2>Rows that are not used</h2>",
        _table(
            ("row", "id", "reason", "detail"),
            [tuple(r.values()) for r in report["refused_rows"][:MAX_LISTED]],
        ),
        "<h2>The same twice</h2>",
        _table(
            ("", "ids"),
            [
                (what, ", ".join(group))
                for what, groups in (
                    ("recording", report["same_recording"]),
                    ("text", report["same_text"]),
                )
                for group in groups[:MAX_LISTED]
            ],
        ),
        "<h2>Characters</h2>",
        f"<p>{'&emsp;'.join(f'{_text(c)}&nbsp;{n}' for c, n in report['characters'].items())}</p>",
        "<h2>Pairs never heard</h2>",
        "<p>Pairs that chance would have several times, the most expected first.</p>",
        f"<p>{'&emsp;'.join(_text(pair) for pair, _ in report['pairs_never_heard'])}</p>",
    ]
    title = f"Corpus {_text(report['corpus'])}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    body = f"<body><h1>{title}</h1>\n{body}\n</body>"
    return f'<!doctype html><html lang="en"><head>{head}</head>\n{body}</html>\n'


def _findings(report: dict[str, Any]) -> list[tuple[str, int]]:
    rows = report["rows"]
    narrow = [r for r in rows if r["bandwidth_hz"] < NARROW * min(r["sample_rate_hz"] / 2, 11_025)]
    counts = [
        (f"text fits badly (misfit above {MISFIT:g})", sum(r["misfit"] > MISFIT for r in rows)),
        ("clipped", sum(r["clipped_share"] > CLIPPED for r in rows)),
        ("narrow band for its sample rate", len(narrow)),
        (f"noisy (less than {NOISY_SNR_DB} dB)", sum(r["snr_db"] < NOISY_SNR_DB for r in rows)),
        ("with a DC offset", sum(bool(r["offset"]) for r in rows)),
        (
            f"pauses of {report['long_pause_seconds']:g} s and more inside",
            sum(r["pause_seconds"] > 0 for r in rows),
        ),
        ("recordings that are there twice", sum(map(len, report["same_recording"]))),
        ("texts that are there twice", sum(map(len, report["same_text"]))),
    ]
    return [(what, n) for what, n in counts if n]


def _worst(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f'<tr><td class="n">{row["misfit"]:.2f}</td><td>{_text(row["id"])}</td>'
        f"<td>{_text(row['text'])}</td>"
        f'<td><audio controls preload="none" src="{_text(row["player"])}"></audio></td></tr>'
        for row in rows
        if row["player"]
    ]
    head = "<tr><th>misfit</th><th>id</th><th>text</th><th>recording</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"


def _table(head: Iterable[str], rows: Sequence[Iterable[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    titles = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _histogram(values: Sequence[float], title: str) -> str:
    counts, edges = np.histogram(values, BARS)
    heights = 80 * counts / max(1, counts.max())
    bars = "".join(
        f'<rect x="{8 * n}" y="{80 - height:.1f}" width="7" height="{height:.1f}"/>'
        for n, height in enumerate(heights)
    )
    svg = f'<svg width="{8 * BARS}" height="80" role="img" aria-label="{_text(title)}">{bars}</svg>'
    low, middle, high = edges[0], float(np.median(values)), edges[-1]
    caption = f"{_text(title)}: {low:.3g} to {high:.3g}, median {middle:.3g}"
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _text(value: Any) -> str:
    return escape(printable(str(value), MAX_TEXT))
