"""Let judges hear a folder of wave files: naturalness, error rates of a recogniser, and more.

dimts judge --waves output/voice --texts corpora/me/metadata.csv --language es
dimts judge --waves output/voice --texts corpora/me/metadata.csv --language es \\
    --recordings corpora/me/wavs

The table of texts has a line name|text for each file. With recordings of the same sentences, their
own scores stand beside: what could be had at all. Voices are judged by dimts evaluate --judges.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from dimts.cli import JobParser, count
from dimts.core.config import build_config
from dimts.core.environment import n_cores
from dimts.core.ray_session import ray_session
from dimts.evaluation.judges.config import NAMES, PRETRAINED, JudgesConfig
from dimts.evaluation.judges.judge import Clip
from dimts.evaluation.judges.panel import judge_clips, load_judges
from dimts.evaluation.judges.report import Report, judge_voices, table, to_json
from dimts.evaluation.judges.sources import RECORDINGS, clips_of_folder

WITHOUT_RECORDINGS = ("recognition", "naturalness", "dnsmos", "pitch")
WAVES = "waves"


def main() -> None:
    """Print what the judges say."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--waves", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE", help="name|text")
    parser.add_argument("--language", required=True, metavar="CODE", help="of the texts")
    parser.add_argument("--recordings", type=Path, metavar="FOLDER", help="by the same names")
    add_options(parser)
    arguments = parser.parse_args()
    names = arguments.judges or (PRETRAINED if arguments.recordings else WITHOUT_RECORDINGS)
    config = judges_config({}, names, arguments)
    folders = {RECORDINGS: arguments.recordings, WAVES: arguments.waves}
    voices = {
        name: clips_of_folder(folder, arguments.texts, arguments.language, arguments.recordings)
        for name, folder in folders.items()
        if folder
    }
    report = hear(config, voices, arguments.workers)
    print(table(report))
    write_json(arguments.json, report)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of all commands that let judges hear."""
    parser.add_argument("--judges", type=_names, metavar="NAMES", help=f"of {','.join(NAMES)}")
    parser.add_argument(
        "--recogniser", metavar="MODEL",
        help="folder or name of a Whisper for CTranslate2 (default: Whisper base)",
    )  # fmt: skip
    parser.add_argument(
        "--reader", metavar="MODEL",
        help="bundle or run of the family recogniser; adds the judge reading",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=count, default=0, metavar="N",
        help="processes of Ray, of one core each, that listen; for thousands of sentences "
        "(default: threads of this process)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all scores here")


def judges_config(
    section: Mapping[str, object], names: Sequence[str], arguments: argparse.Namespace
) -> JudgesConfig:
    """The section `judges` with what the command line says instead; a reader also reads.

    Raises:
        ConfigError: there is no such judge.
    """
    own = {"recogniser": arguments.recogniser, "reader": arguments.reader}
    values = {**section, **{key: value for key, value in own.items() if value}}
    if arguments.reader:
        names = tuple(dict.fromkeys((*names, "reading")))
    elif "reading" not in names:
        values.pop("reader", None)
    return build_config(JudgesConfig, {**values, "names": tuple(names)})


def hear(config: JudgesConfig, voices: Mapping[str, Sequence[Clip]], workers: int = 0) -> Report:
    """Load the judges and let them hear: here, on as many cores as there are, or on Ray."""
    if workers:
        from dimts.launch.judging import judge_on_ray

        with ray_session(logging.WARNING):
            listen = partial(judge_on_ray, config, workers=workers)
            return judge_voices(config.names, voices, listen)
    threads = n_cores()
    judges = load_judges(config, torch.device("cpu"), threads)
    return judge_voices(config.names, voices, partial(judge_clips, judges, threads=threads))


def write_json(file: Path | None, report: Report) -> None:
    """Write a report, if a file was named."""
    if file:
        text = json.dumps(to_json(report), indent=1, ensure_ascii=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
