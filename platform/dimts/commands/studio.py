"""Pages in a browser: speak, compare voices blindly, record, look through a corpus.

dimts studio
dimts studio --model runs/VOICE --model models:/NAME@champion
dimts studio --config FILE --model runs/ONE --model runs/OTHER
dimts studio --config FILE --record corpora/mine --sentences SENTENCES.txt
"""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from dimts.audio.mel import MelConfig
from dimts.cli import add_address, config_parser
from dimts.commands.prepare import SECTIONS
from dimts.commands.voice_config import RunnableConfig, load_voice
from dimts.core.errors import UserError
from dimts.features.feature_set import FeatureSet
from dimts.studio.blind_test import Sentence
from dimts.studio.corpus import CorpusRows, recorded
from dimts.studio.listen import ListeningTest
from dimts.studio.rate import RatingTest
from dimts.studio.record import Recorder
from dimts.studio.requests import Speech, VoiceAsked, parse
from dimts.studio.server import Action, build_app
from dimts.studio.voices import Spoken, Voices, data_url
from dimts.tracking.config import add_tracking_uri
from dimts.tracking.ui import address

ANSWERS, RATINGS = Path("output/listening.jsonl"), Path("output/ratings.jsonl")
RUNS = Path("runs")


def main() -> None:
    """Serve the pages until Ctrl-C or SIGTERM."""
    arguments = _parser().parse_args()
    host, port = str(arguments.host), arguments.port
    asks = arguments.token or not ipaddress.IPv4Address(host).is_loopback
    token = secrets.token_urlsafe(16) if asks else None
    reads, changes = actions(arguments)
    app = build_app(reads, changes, token)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror}; choose another --port") from None
    shown = f"{address(host, listener.getsockname()[1])}/" + (f"?token={token}" if token else "")
    print(f"studio: {shown}  (Ctrl-C stops it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])


def actions(arguments: argparse.Namespace) -> tuple[dict[str, Action], dict[str, Action]]:
    """What the pages ask for and change, by name; a page that lacks an option is not there.

    Raises:
        UserError: there is nothing to show, or an option does not fit.
    """
    tracking = arguments.tracking
    voices = Voices(arguments.model or found_runs(), tracking)
    reads: dict[str, Action] = {}
    changes: dict[str, Action] = {}
    pages = []
    if voices.names:
        pages.append("speak")
        reads["voice"] = lambda values: voices.facts(parse(VoiceAsked, values).model)
        changes["speak"] = lambda values: spoken(voices, parse(Speech, values))
    sections: Any = config_of(arguments)
    if sections and len(voices.names) > 1:
        sentences = held_out(sections)
        test = ListeningTest(voices, sentences, arguments.answers, arguments.trials)
        ratings = RatingTest(
            voices, sentences, arguments.ratings, arguments.trials, reference(sections)
        )
        for page, of, answer in (("listen", test, test.answer), ("rate", ratings, ratings.rate)):
            pages.append(page)
            reads |= {
                f"{page}/trial": of.next,
                f"{page}/clip": of.clip,
                f"{page}/result": of.result,
            }
            changes |= {f"{page}/answer": answer, f"{page}/log": partial(of.log, tracking=tracking)}
    if arguments.record or arguments.sentences:
        if not (sections and arguments.record and arguments.sentences):
            raise UserError("to record, give --config, --record and --sentences")
        pages.append("record")
        recorder = Recorder(arguments.record, arguments.sentences, sections.text, sections.prepare)
        reads["sentence"], changes["recording"] = recorder.next, recorder.keep
    if sections:
        pages.append("corpus")
        language = sections.corpus.language or sections.text.language
        rows = CorpusRows(sections.corpus, language, sections.prepare.features)
        reads |= {"rows": rows.rows, "row": rows.recording}
        changes["mark"] = rows.mark
    if not pages:
        raise UserError("there is no voice in runs/: name one by --model, or a corpus by --config")
    reads["about"] = lambda values: {"pages": pages, "models": voices.names}
    return reads, changes


def found_runs() -> list[str]:
    """Runs in this folder that have a bundle, in order."""
    return [str(file.parent) for file in sorted(RUNS.glob("*/checkpoint_best"))]


def config_of(arguments: argparse.Namespace) -> RunnableConfig | None:
    """The settings that say where corpus and features are, if they are named."""
    if not arguments.config:
        return None
    config = load_voice(arguments.config, arguments.overrides)
    if not type(config).model_fields.keys() >= SECTIONS:
        raise UserError(f"family: {config.family} has no corpus that the studio could show")
    return config


def held_out(sections: Any) -> dict[str, Sentence]:
    """Sentences of the test split, by id.

    Raises:
        UserError: there are no features, or none is held out.
    """
    rows = FeatureSet.open(sections.prepare.features).split("test")
    if not len(rows):
        raise UserError(f"{sections.prepare.features}: the test split is empty")
    known = map(rows.values, ("id", "raw_text", "language", "audio", "start", "seconds"))
    return {
        row: Sentence(text, language, audio, start, start + seconds)
        for row, text, language, audio, start, seconds in zip(*known, strict=True)
    }


def reference(sections: Any) -> Callable[[Sentence], Spoken] | None:
    """What reads the recordings of sentences, as they were prepared: without silence at their ends,
    in the band of the voices; None if the corpus is not on this machine."""
    corpus = sections.corpus.path
    if not corpus.is_dir():
        return None
    rate = MelConfig().sample_rate
    return lambda said: recorded(corpus, said.audio, said.start, said.end, rate)


def spoken(voices: Voices, asked: Speech) -> dict[str, Any]:
    """A text as a voice speaks it: the wave, its mel with the tokens, and what the normaliser made
    of it."""
    language = asked.language or None
    options: dict[str, Any] = {"language": language, "voice": asked.voice or None}
    options |= {"speed": asked.speed, "pitch": asked.pitch}
    made = voices.speak(asked.model, asked.text, **options)
    aligned = voices.aligned(asked.model, asked.text, **options)
    return {
        "normalised": voices.normalised(asked.model, asked.text, language),
        "seconds": len(made.wave) / made.sample_rate,
        "wav": data_url("audio/wav", made.wav()),
        "mel": data_url("image/png", made.mel_png(asked.text[:80], aligned)),
        "tokens": len(aligned.tokens) if aligned else 0,
    }


def _parser() -> argparse.ArgumentParser:
    parser = config_parser(__doc__ or "", default="none: no corpus is shown")
    parser.add_argument(
        "--model", action="append", default=[],
        help="bundle, run folder or MLflow URI; may be given several times (default: all in runs/)",
    )  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="corpus that is recorded")
    parser.add_argument(
        "--sentences", type=Path, metavar="FILE", help="UTF-8 text, one sentence to record a line"
    )
    parser.add_argument(
        "--answers", type=Path, default=ANSWERS, help=f"of listeners (default: {ANSWERS})"
    )
    parser.add_argument(
        "--ratings", type=Path, default=RATINGS, help=f"of listeners (default: {RATINGS})"
    )
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N",
        help="sentences that each listener hears of each pair of voices, and rates (default: 20)",
    )  # fmt: skip
    add_address(parser, 7860)
    parser.add_argument(
        "--token", action="store_true",
        help="ask for a token, which the printed address holds; always on other hosts",
    )  # fmt: skip
    add_tracking_uri(parser)
    return parser
