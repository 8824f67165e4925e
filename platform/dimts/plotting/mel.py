"""Pictures of mels and alignments, as PNG files sized for a README.

Only matplotlib's object interface is used: no global figures, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dimts.plotting.fonts import drawable, families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]

WIDTH_IN = 9.0
DPI = 110
COLOURS = "magma"


def mel_plot(
    path: Path,
    mel_TM: Floats,
    reference_TM: Floats | None = None,
    title: str = "",
    hop_s: float = 256 / 22050,
) -> None:
    """Draw a predicted mel, above the recording's where there is one, on one scale.

    Args:
        path: the PNG file; its folder is made.
        mel_TM: natural-log mel, frames by bins.
        reference_TM: the recording's mel, of any length.
        title: one line, in any script.
        hop_s: seconds a frame.
    """
    mels = [("predicted", mel_TM)]
    if reference_TM is not None:
        mels.append(("recording", reference_TM))
    low = min(float(np.percentile(mel, 1)) for _, mel in mels)
    high = max(float(mel.max()) for _, mel in mels)
    seconds = max(len(mel) for _, mel in mels) * hop_s
    figure = _figure(height=0.6 + 1.9 * len(mels))
    rows = figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, mel) in zip(rows, mels, strict=True):
        _draw_mel(axes, mel, hop_s, low, high)
        axes.set_ylabel(f"{label}\nmel bin")
        axes.set_xlim(0, seconds)
    rows[-1].set_xlabel("seconds")
    if title:
        rows[0].set_title(title, fontfamily=families(title), fontsize=11)
    _write(figure, path)


def alignment_plot(
    path: Path,
    mel_TM: Floats,
    durations_N: Sequence[int] | npt.NDArray[np.int64],
    tokens: Sequence[str],
    labels: Sequence[str] | None = None,
    title: str = "",
    hop_s: float = 256 / 22050,
) -> None:
    """Draw a mel with the borders and names of the tokens that the alignment found in it.

    Args:
        path: the PNG file; its folder is made.
        mel_TM: natural-log mel, frames by bins.
        durations_N: frames of each token; they add up to the mel's frames.
        tokens: what each token is called.
        labels: Latin names of the tokens, drawn where no font has the tokens' script.
        title: one line, in any script.
        hop_s: seconds a frame.

    Raises:
        ValueError: the numbers of tokens, durations or frames do not agree.
    """
    durations = np.asarray(durations_N, dtype=np.int64)
    if len(durations) != len(tokens) or (labels is not None and len(labels) != len(tokens)):
        raise ValueError(f"{len(durations)} durations do not belong to {len(tokens)} tokens")
    if durations.sum() != len(mel_TM):
        raise ValueError(f"durations add up to {durations.sum()} of {len(mel_TM)} frames")
    if labels is not None and not drawable("".join(tokens)):
        tokens = labels
    figure = _figure(height=3.2)
    axes = figure.subplots()
    _draw_mel(axes, mel_TM, hop_s, float(np.percentile(mel_TM, 1)), float(mel_TM.max()))
    ends = np.cumsum(durations) * hop_s
    axes.vlines(ends[:-1], 0, mel_TM.shape[1], colors="white", linewidth=0.7, alpha=0.75)
    _name_tokens(axes, ends - durations * hop_s / 2, tokens)
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel bin")
    if title:
        axes.set_title(title, fontfamily=families(title), fontsize=11, pad=30)
    _write(figure, path)


def _name_tokens(axes: Axes, centres_s: npt.NDArray[np.float64], tokens: Sequence[str]) -> None:
    """Write the names over the mel, in two heights so that short tokens do not collide."""
    names_of_fonts = families("".join(tokens))
    size = 11 if len(tokens) <= 45 else 7
    for n, (centre, token) in enumerate(zip(centres_s, tokens, strict=True)):
        name = "·" if not token.strip() else token
        axes.annotate(
            name,
            (float(centre), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 if n % 2 == 0 else 15),
            textcoords="offset points",
            ha="center",
            fontsize=size,
            fontfamily=names_of_fonts,
            annotation_clip=False,
        )


def _draw_mel(axes: Axes, mel_TM: Floats, hop_s: float, low: float, high: float) -> None:
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


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
