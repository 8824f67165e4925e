"""One HTML page on which the samples of a run are heard and seen, step beside step.

MLflow shows an HTML artifact in a frame of its own that cannot reach other artifacts, so
sounds, pictures and the script's font are inside the page.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from dimts.plotting.fonts import shipped_for
from dimts.training.task import Sample

_STYLE = """
body { font: 15px/1.4 sans-serif, "script"; margin: 1.5em; color: #222 }
section { border-top: 1px solid #ccc; padding: .6em 0 }
figure { margin: .6em 0 1.2em } figcaption { font-size: 1.15em } audio { width: 22em }
img { display: block; max-width: 100%; width: 54em }
"""


def write_samples_page(path: Path, title: str, samples: Sequence[Sample]) -> None:
    """Write the page, newest step first; pictures are shown for the newest step only."""
    steps = sorted({sample.step for sample in samples}, reverse=True)
    fonts = "".join(
        f"@font-face {{ font-family: \"script\"; src: url('{_data('font/ttf', font)}') }}\n"
        for font in shipped_for("".join(sample.text for sample in samples))
    )
    head = html.escape(title)
    parts = [
        "<!doctype html><html><head><meta charset='utf-8'>",
        f"<title>{head}</title><style>{_STYLE}{fonts}</style></head><body><h1>{head}</h1>",
    ]
    for step in steps:
        parts.append(f"<section><h2>step {step}</h2>")
        parts += [_figure(s, step == steps[0]) for s in samples if s.step == step]
        parts.append("</section>")
    parts.append("</body></html>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def _figure(sample: Sample, with_plots: bool) -> str:
    plots = "".join(
        f"<img alt='{html.escape(plot.stem)}' src='{_data('image/png', plot)}'>"
        for plot in (sample.plots if with_plots else ())
    )
    return (
        f"<figure><figcaption>{html.escape(sample.text)}</figcaption>"
        f"<audio controls preload='metadata' src='{_data('audio/wav', sample.wav)}'></audio>"
        f"{plots}</figure>"
    )


def _data(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
