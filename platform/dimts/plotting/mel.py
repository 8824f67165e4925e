"""Pictures of mels and alignments, as PNG files sized for a README.

Only matplotlib's object interface is used: no global figures, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dimts.plotting.fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float32]

WIDTH_IN = 9.0
DPI = 110
COLOURS = "magma"
MAX_LARGE = 45
"""Tokens whose names are written in the larger size."""


def mel_plot(
    path: Path,
    mel_TM: Floats,
    reference_TM: Floats | None = None,
    title: str = "",
    hop_s: float = 256 / 22050,
    durations_N: Sequence[int] | npt.NDArray[np.int64] = (),
    tokens: Sequence[str] = (),
) -> None:
    """Draw a mel, and below it on the same scale that of the recording, if there is one.

    Args:
        path: the PNG file; its folder is made.
        mel_TM, reference_TM: natural-log mels, frames by bins, of any lengths.
        title: one line, in any script.
        hop_s: seconds a frame.
        durations_N: frames of each token, which add up to the mel's; their borders are drawn.
        tokens: what each token is called.
    """
    from matplotlib.figure import Figure

    mels = {"predicted\nmel bin" if reference_TM is not None else "mel bin": mel_TM}
    if reference_TM is not None:
        mels["recording\nmel bin"] = reference_TM
    height = 0.6 + 1.9 * len(mels) + 0.7 * bool(tokens)
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    rows = figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0]
    low = min(float(np.percentile(mel, 1)) for mel in mels.values())
    high = max(float(mel.max()) for mel in mels.values())
    for axes, (label, mel_TM) in zip(rows, mels.items(), strict=True):
        n_frames, n_mels = mel_TM.shape
        axes.imshow(
            mel_TM.T,
            origin="lower",
            aspect="auto",
            cmap=COLOURS,
            vmin=low,
            vmax=max(high, low + 1e-3),
            extent=(0.0, n_frames * hop_s, 0.0, float(n_mels)),
            interpolation="nearest",
        )
        axes.set_ylabel(label)
    rows[0].set_xlim(0, max(map(len, mels.values())) * hop_s)
    rows[-1].set_xlabel("seconds")
    if tokens:
        durations_N = np.asarray(durations_N)
        ends_s = np.cumsum(durations_N) * hop_s
        rows[0].vlines(ends_s[:-1], 0, mel_TM.shape[1], colors="white", linewidth=0.7, alpha=0.75)
        _name_tokens(rows[0], ends_s - durations_N * hop_s / 2, tokens)
    if title:
        pad = 30 if tokens else None
        rows[0].set_title(title, fontfamily=families(title), fontsize=11, pad=pad)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _name_tokens(axes: Axes, centres_s: npt.NDArray[np.float64], tokens: Sequence[str]) -> None:
    """Write the names over the mel, in two heights so that short tokens do not collide."""
    fonts = families("".join(tokens))
    for n, (centre, token) in enumerate(zip(centres_s, tokens, strict=True)):
        axes.annotate(
            token if token.strip() else "·",
            (float(centre), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 if n % 2 == 0 else 15),
            textcoords="offset points",
            ha="center",
            fontsize=11 if len(tokens) <= MAX_LARGE else 7,
            fontfamily=fonts,
            annotation_clip=False,
        )
