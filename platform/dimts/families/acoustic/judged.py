"""What judges hear of a voice: after a training, as objectives of a sweep, and for promotion."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from dimts.core.errors import UserError
from dimts.evaluation.judges.judge import Judge
from dimts.evaluation.judges.metrics import JUDGED, OF_JUDGE
from dimts.evaluation.judges.panel import load_judges
from dimts.evaluation.judges.report import Report
from dimts.evaluation.judges.sources import VOICE
from dimts.evaluation.judges.voice import judge_voice, judged_metrics
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.restoration import with_restoration
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.protocol import Measured
from dimts.families.registry import use_shipped_vocoder
from dimts.features.manifest import SplitName

log = logging.getLogger(__name__)


def hear(
    settings: AcousticSettings, data: Data, bundle: Path, split: SplitName, device: torch.device
) -> Report:
    """What the judges of the settings say of a bundle; see `judge_voice`."""
    speaker = AcousticSpeaker.load(bundle, str(device))
    use_shipped_vocoder(speaker)
    threads = torch.get_num_threads()
    report = judge_voice(settings.judges, data.features, split, speaker, device, threads)
    for objection in report.objections:
        log.warning(objection)
    return report


def heard_metrics(
    settings: AcousticSettings, data: Data, bundle: Path, device: torch.device
) -> dict[str, float]:
    """Judged metrics of the test split; what keeps the judges from hearing is a warning, as the
    voice is trained."""
    try:
        return judged_metrics(hear(settings, data, bundle, "test", device))
    except UserError as error:
        log.warning("not judged: %s", error)
        return {}


def listener(
    settings: AcousticSettings, data: Data, model: T3
) -> Callable[[], dict[str, float]] | None:
    """What hears a model's validation sentences while it is trained, as ``val/NAME``, where a judge
    chooses the best checkpoint; None where none does."""
    config, speakers = settings.judges, data.speakers
    if not config.chooses:
        return None
    [judge] = [judge for judge, of in OF_JUDGE.items() if config.chooses in {m.name for m in of}]
    config = config.model_copy(update={"names": (judge,)})
    judges: list[Judge] = []  # loaded when they first listen, which rank 0 alone does

    def listen() -> dict[str, float]:
        spoken = copy.deepcopy(model).eval()  # as it would be from its bundle
        spoken.load_state_dict(with_restoration(model, model.state_dict(), data.train))
        voice = AcousticSpeaker(spoken, data.tokenizer, settings.mel, data.language, speakers)
        use_shipped_vocoder(voice)  # as `hear` does
        device, threads = model.mel_mean_M.device, torch.get_num_threads()
        judges[:] = judges or load_judges(config, device, threads)
        report = judge_voice(config, data.features, "val", voice, device, threads, (VOICE,), judges)
        if (mean := report.mean(VOICE, config.chooses)) is None:
            why = "; ".join(report.objections) or "was not measured on any sentence"
            raise UserError(f"judges.chooses: {config.chooses}: {why}")
        return {f"val/{config.chooses}": mean.mean}

    return listen


def check_judges(settings: AcousticSettings) -> None:
    """Load the judges once, before hours of training.

    Raises:
        UserError: one is not installed.
    """
    load_judges(settings.judges, torch.device("cpu"))


def check_objectives(settings: AcousticSettings, names: set[str]) -> None:
    """Refuse objectives that no judge of the settings measures.

    Raises:
        UserError: names the judge that is missing.
    """
    for judge, metrics in OF_JUDGE.items():
        for metric in metrics:
            if f"val/{metric.name}" in names and judge not in settings.judges.names:
                raise UserError(
                    f"sweep.objectives: val/{metric.name} needs the judge {judge} in judges.names"
                )


def deciding(settings: AcousticSettings, report: Report, measured: Measured) -> Measured:
    """What promotion compares, where a judge decides."""
    metrics = [metric for metric in JUDGED if metric.name == settings.judges.decides]
    if not metrics:
        return measured
    [metric] = metrics
    values = report.values(VOICE, metric.name)
    if not values:
        raise UserError(f"judges.decides: {metric.name} was not measured on any sentence")
    found = np.array(list(values.values()))
    return measured._replace(ids=list(values), values=found, decides=metric)


def regressions(
    settings: AcousticSettings, ours: Mapping[str, float], theirs: Mapping[str, float] | None
) -> list[str]:
    """In which metrics of `judges.not_worse` a candidate is worse than it may be.

    It is compared with the champion or, where there is none, with the recordings.
    """
    against = []
    for metric in JUDGED:
        allowed = settings.judges.not_worse.get(metric.name)
        if allowed is None:
            continue
        other = theirs.get(metric.name) if theirs else ours.get(f"recorded_{metric.name}")
        whose = "the champion's" if theirs else "the recordings'"
        own = ours.get(metric.name)
        if own is None or other is None:
            against.append(f"its {metric.label} was not measured beside {whose}")
            continue
        worse = own - other if metric.direction == "minimize" else other - own
        if not worse <= allowed:
            against.append(
                f"its {metric.label} is {metric.text(own)}, {whose} {metric.text(other)}; at most "
                f"{allowed:g} worse is asked for"
            )
    return against
