"""What a finished run prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimts.storage.paths import Folder

ROWS = (
    ("mcd", "mel-cepstral distortion, dB"),
    ("untrained_mcd", "  the same, untrained model"),
    ("mean_mel_mcd", "  the same, mean mel"),
    ("equal_share_mcd", "  the same, equal durations"),
    ("mcd_of_untrained", "distortion / untrained"),
    ("length_ratio", "total length / recorded"),
    ("duration_error", "duration error, frames a token"),
    ("aligned_mel_mse", "log-mel MSE, aligned"),
)


def figures_table(figures: Mapping[str, float]) -> str:
    """Held-out figures as lines; the columns are the splits that there are."""
    splits = [s for s in ("train", "val", "test") if f"{s}/mcd" in figures]
    if not splits:
        return ""
    counts = "".join(f"{split:>12}" for split in splits)
    lines = [f"{'held-out figures':<34}{counts}"]
    for key, title in (*ROWS, ("utterances", "utterances")):
        if f"{splits[0]}/{key}" not in figures:
            continue
        digits = 0 if key == "utterances" else 3
        values = "".join(f"{figures[f'{split}/{key}']:>12.{digits}f}" for split in splits)
        lines.append(f"{title:<34}{values}")
    return "\n".join(lines)


def forgetting_line(figures: Mapping[str, float]) -> str:
    """What the base's languages lost, if that was measured."""
    if "forgetting/mcd_change" not in figures:
        return ""
    after, change = figures["forgetting/mcd"], figures["forgetting/mcd_change"]
    return (
        f"{'languages of the base, dB':<34}{after:>12.3f}   ({change:+.3f} against before; "
        "held-out sentences)"
    )


def print_result(run: Folder, result: Mapping[str, Any]) -> None:
    """The end of a run: status, figures, and where the voice is."""
    print(f"\n{result['status']} at step {result['step']}")
    if table := figures_table(result["figures"]):
        print(table)
    if forgetting := forgetting_line(result["figures"]):
        print(forgetting)
    if result["status"] == "stopped":
        print("start it again to go on from the checkpoint")
    elif result["best"]:
        print(f"voice: {run / 'checkpoint_best'}")
