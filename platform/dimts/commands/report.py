"""What a finished run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dimts.core.metric import Metric, of_speaker
from dimts.families.protocol import Family
from dimts.features.manifest import SPLITS
from dimts.storage.paths import AnyPath


def table(
    title: str,
    columns: Mapping[str, Mapping[str, float]],
    metrics: Sequence[Metric],
    width: int = 12,
) -> list[str]:
    """Lines of a table: a row for each metric that a column has a value of."""
    lines = [f"{title:<34}" + "".join(f"{head:>{width}}" for head in columns)]
    for metric in metrics:
        found = [values.get(metric.name) for values in columns.values()]
        if any(value is not None for value in found):
            cells = "".join(f"{'-' if v is None else metric.text(v):>{width}}" for v in found)
            lines.append(f"{metric.label:<34}{cells}")
    return lines


def metrics_table(family: Family, values: Mapping[str, float]) -> str:
    """Held-out metrics as lines; the columns are the splits that there are. Below what is of all
    speakers stands what each of several has. The last line is what the base's languages lost, if
    that was measured."""
    speakers = sorted({key.split("/")[2] for key in values if "/speaker/" in key})
    shown = [
        row
        for metric in family.metrics
        if "held_out" in metric.tables
        for row in (metric, *(_of_speaker(metric, name) for name in speakers))
    ]
    splits: dict[str, dict[str, float]] = {
        split: {m.name: values[key] for m in shown if (key := f"{split}/{m.name}") in values}
        for split in SPLITS
    }
    splits = {split: found for split, found in splits.items() if found}
    lines = table("held-out metrics", splits, shown) if splits else []
    for metric in family.metrics:
        if metric.name in values and metric.name.startswith("forgetting/"):
            after = values[metric.name.removesuffix("_change")]
            lines.append(
                f"{f'languages of the base, {metric.unit}':<34}{after:>12.3f}   "
                f"({values[metric.name]:+.3f} against before; held-out sentences)"
            )
    return "\n".join(lines)


def _of_speaker(metric: Metric, name: str) -> Metric:
    return metric._replace(name=of_speaker(name, metric.name), label=f"    {name}")


def print_result(family: Family, run: AnyPath, result: Mapping[str, Any]) -> None:
    """The end of a run: status, metrics, and where the voice is."""
    print(f"\n{result['status']} at step {result['step']}")
    if lines := metrics_table(family, result["metrics"]):
        print(lines)
    if result["status"] == "stopped":
        print("start it again to go on from the checkpoint")
    elif result["best"]:
        print(f"voice: {run / 'checkpoint_best'}")
