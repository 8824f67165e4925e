"""What a finished run prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimts.families.protocol import Family
from dimts.storage.paths import AnyPath

SPLITS = ("train", "val", "test")


def metrics_table(family: Family, values: Mapping[str, float]) -> str:
    """Held-out metrics as lines; the columns are the splits that there are."""
    shown = [metric for metric in family.metrics if "held_out" in metric.tables]
    splits = [s for s in SPLITS if any(f"{s}/{metric.name}" in values for metric in shown)]
    if not splits:
        return ""
    heads = "".join(f"{split:>12}" for split in splits)
    lines = [f"{'held-out metrics':<34}{heads}"]
    for metric in shown:
        found = [values.get(f"{split}/{metric.name}") for split in splits]
        if found[0] is not None:
            cells = "".join(f"{'-' if v is None else metric.text(v):>12}" for v in found)
            lines.append(f"{metric.label:<34}{cells}")
    return "\n".join(lines)


def forgetting_line(metrics: Mapping[str, float]) -> str:
    """What the base's languages lost, if that was measured."""
    if "forgetting/mcd_change" not in metrics:
        return ""
    after, change = metrics["forgetting/mcd"], metrics["forgetting/mcd_change"]
    return (
        f"{'languages of the base, dB':<34}{after:>12.3f}   ({change:+.3f} against before; "
        "held-out sentences)"
    )


def print_result(family: Family, run: AnyPath, result: Mapping[str, Any]) -> None:
    """The end of a run: status, metrics, and where the voice is."""
    print(f"\n{result['status']} at step {result['step']}")
    if table := metrics_table(family, result["metrics"]):
        print(table)
    if forgetting := forgetting_line(result["metrics"]):
        print(forgetting)
    if result["status"] == "stopped":
        print("start it again to go on from the checkpoint")
    elif result["best"]:
        print(f"voice: {run / 'checkpoint_best'}")
