"""How much silence the trim leaves at the ends of recordings, and what it cuts off there.

    python benchmarks/edges.py corpora/asterisk_en corpora/sample_am

Of each end where something is cut: the silence that stays between the cut and the first 5 ms of
speech (within 40 dB of the loudest frame), and the loudest 10 ms of the tenth of a second that was
cut off, below the loudest frame. What is louder than -50 dB there may be heard.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimts.audio.files import decode_audio
from dimts.audio.mel import Float32Array
from dimts.audio.trim import TrimConfig, find_speech, trimmed

KEPT = (0.0, 0.025, 0.05, 0.1)
HEARD_DB, BEYOND = -50.0, 0.1
"""Of the loudest frame; seconds of what is cut off that are looked at."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each corpus and length that is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path, nargs="+", help="folders with recordings in wavs/")
    options = parser.parse_args(arguments)
    print("| corpus | kept, s | ends | masked by noise | silence before, ms | after, ms "
          "| cut off, dB: median | 95 % | louder than -50 dB |")  # fmt: skip
    print("| --- |" + " --- |" * 8)
    for corpus in options.corpora:
        found = [
            np.array([*rows])
            for rows in zip(*map(ends, sorted(corpus.glob("wavs/*"))), strict=True)
        ]
        for kept, rows in zip(KEPT, found, strict=True):
            print(f"| {corpus.name} | {kept:g} | {figures(rows.reshape(-1, 4))} |")
    return 0


def figures(rows_N4: NDArray[np.float64]) -> str:
    """Cells of one line."""
    masked, side, silence, level = rows_N4[np.isfinite(rows_N4[:, 3])].T
    clean = masked == 0
    before, after = (1000 * np.median(silence[clean & (side == end)]) for end in (0, 1))
    level = level[clean]
    return (
        f"{clean.sum()} | {(~clean).sum()} | {before:.0f} | {after:.0f} | {np.median(level):.0f} | "
        f"{np.percentile(level, 95):.0f} | {(level > HEARD_DB).mean():.1%}"
    )


def ends(file: Path) -> Iterator[NDArray[np.float64]]:
    """Of each length in `KEPT`, both ends of a recording, [2, 4]: whether noise masks it, which end
    it is, silence in seconds, and the level in dB of what is cut off; NaN: nothing is."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        wave, rate, _ = decode_audio(descriptor)
    finally:
        os.close(descriptor)
    activity = find_speech(wave, rate, TrimConfig().top_db)
    loudest = activity.power.max()
    loud = np.flatnonzero(levels(wave, rate, 0.005, loudest) > -TrimConfig().top_db)
    spoken = loud[0] * 0.005, (loud[-1] + 1) * 0.005
    for kept in KEPT:
        start, end = trimmed(activity, len(wave), rate, TrimConfig(keep_seconds=kept))
        strip = round(BEYOND * rate)
        cut_off = wave[max(0, start - strip) : start], wave[end : end + strip]
        loudness = (levels(w, rate, 0.01, loudest).max(initial=-np.inf) for w in cut_off)
        silences = spoken[0] - start / rate, end / rate - spoken[1]
        yield np.array([
            (activity.is_masked, side, *values)
            for side, values in enumerate(zip(silences, loudness, strict=True))
        ], np.float64)  # fmt: skip


def levels(wave: Float32Array, rate: int, seconds: float, loudest: float) -> NDArray[np.float64]:
    """Of each whole block of some seconds, in dB of a mean square."""
    block = round(seconds * rate)
    blocks = wave[: len(wave) // block * block].reshape(-1, block)
    power: NDArray[np.float64] = np.square(blocks, dtype=np.float64).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1e-12) / loudest)


if __name__ == "__main__":
    raise SystemExit(main())
