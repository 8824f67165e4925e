"""How much silence the trim leaves at the ends of recordings, and what it cuts off there.

    python benchmarks/edges.py corpora/asterisk_en corpora/sample_am

Of both ends of every recording that is not under noise: the silence between the cut and the first
5 ms of speech (within 40 dB of the loudest frame), and whether any 10 ms of the tenth of a second
that was cut off are louder than -50 dB of that frame, which may be heard.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimts.audio.decoded import AudioError
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
    print("| corpus | kept, s | ends | cut | before, ms | after, ms | sound cut off | used |")
    print("| --- |" + " --- |" * 7)
    for corpus in options.corpora:
        rows = [row for file in sorted(corpus.glob("wavs/*")) for row in ends(file)]
        found = np.array(rows, np.float64).reshape(-1, len(KEPT), 2, 4)
        for kept, of_length in zip(KEPT, found.swapaxes(0, 1), strict=True):
            print(f"| {corpus.name} | {kept:g} | {figures(of_length)} |")
    return 0


def figures(rows_N24: NDArray[np.float64]) -> str:
    """Cells of one line."""
    silence_N2, level_N2, cut_N2, seconds_N2 = np.moveaxis(rows_N24, 2, 0)
    is_cut = cut_N2 > 0
    before, after = (
        f"{1000 * np.median(silence_N2[is_cut[:, end], end]):.0f}" if is_cut[:, end].any() else "-"
        for end in (0, 1)
    )
    heard = (level_N2 > HEARD_DB).mean()
    return (
        f"{is_cut.size} | {is_cut.sum()} | {before} | {after} | {heard:.1%} | "
        f"{seconds_N2[:, 0].sum() / 60:.1f} min"
    )


def ends(file: Path) -> Iterator[list[tuple[float, float, float, float]]]:
    """Of each length in `KEPT`, for both ends: silence that is kept, level in dB of what is cut
    off, seconds that are, and seconds of the recording that are used.

    Of a recording that cannot be read or is under noise: nothing.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        wave, rate, _ = decode_audio(descriptor)
    except AudioError:
        return
    finally:
        os.close(descriptor)
    activity = find_speech(wave, rate, TrimConfig().top_db)
    loudest = float(activity.power.max())
    if activity.is_masked:
        return
    loud = np.flatnonzero(levels(wave, rate, 0.005, loudest) > -TrimConfig().top_db)
    spoken = loud[0] * 0.005, (loud[-1] + 1) * 0.005
    for kept in KEPT:
        start, end = trimmed(activity, len(wave), rate, TrimConfig(keep_seconds=kept))
        strip = round(BEYOND * rate)
        cut_off = wave[max(0, start - strip) : start], wave[end : end + strip]
        silences = spoken[0] - start / rate, end / rate - spoken[1]
        cuts = start / rate, (len(wave) - end) / rate
        heard = [levels(w, rate, 0.01, loudest).max(initial=-np.inf) for w in cut_off]
        used = 2 * ((end - start) / rate,)
        yield [*zip(silences, heard, cuts, used, strict=True)]


def levels(wave: Float32Array, rate: int, seconds: float, loudest: float) -> NDArray[np.float64]:
    """Of each whole block of some seconds, in dB of a mean square."""
    block = round(seconds * rate)
    blocks = wave[: len(wave) // block * block].reshape(-1, block)
    power: NDArray[np.float64] = np.square(blocks, dtype=np.float64).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1e-12) / loudest)


if __name__ == "__main__":
    raise SystemExit(main())
