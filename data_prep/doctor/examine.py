"""Corpus -> report: features are prepared, recordings measured, texts aligned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.doctor.measure import Measures, measure
from data_prep.doctor.texts import characters, duplicates, pairs_never_heard
from data_prep.languages import corpus_tokenizer
from data_prep.misfit import corpus_misfits
from data_prep.pipeline import prepare
from data_prep.readers import read_corpus
from data_prep.recordings import at_hand, root_of
from data_prep.report import read_quarantine
from data_prep.utterance import Segment, Utterance
from dimts.audio.cleaning import LONG_PAUSE_SECONDS, Cleaned
from dimts.audio.decoded import AudioError
from dimts.audio.files import Decoded, decode_audio, resampled, write_wav
from dimts.audio.mel import Float32Array, MelConfig
from dimts.bundles.fetch import local_bundle
from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS
from dimts.features.mel_extractor import MelExtractor
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig

if TYPE_CHECKING:
    from dimts.families.acoustic.bundle import Bundle

AUDIO = "audio"
MAX_PLAYERS = 100
_CHUNK = 64


class DoctorConfig(Config):
    """What is examined, and how it is read."""

    corpus: CorpusConfig
    text: TextConfig
    prepare: PrepareConfig


class Examined(NamedTuple):
    """A row that can be used."""

    id: str
    text: str  # normalised
    raw_text: str
    language: str
    speaker: str
    seconds: float
    segment: Segment
    cleaned: Cleaned
    mel: Float32Array


def examine(config: DoctorConfig, out: Path, model: str = "") -> dict[str, Any]:
    """The report of a corpus as plain values; recordings of the worst rows go to `out/audio`.

    Args:
        model: run or bundle of a voice that aligns the texts; "": they are aligned from a flat
            start.

    Raises:
        UserError: there is no such corpus, no row of it can be used, a recording went away, or
            the model is no acoustic one or does not speak the language.
    """
    bundle = _voice(model) if model else None
    mel = bundle.mel if bundle else MelConfig()
    manifest = prepare(config.corpus, config.text, [MelExtractor(mel)], config.prepare)
    rows = _rows(config)
    scores = _misfits(rows, config, bundle)
    order = np.argsort(-scores, kind="stable")
    players = {int(index): f"{AUDIO}/{rank:03d}.wav" for rank, index in enumerate(order)}
    players = {index: players[index] for index in order[:MAX_PLAYERS].tolist()}
    measures: list[Measures] = []
    for index, recording in enumerate(_recordings(config, rows)):
        measures.append(measure(recording))
        if index in players:
            rate = MelConfig().sample_rate
            wave = resampled(recording.wave, recording.sample_rate, rate)
            write_wav(out / players[index], wave, rate)
    ids, texts = [row.id for row in rows], [row.text for row in rows]
    return {
        "corpus": str(config.corpus.path),
        "n_rows": manifest.corpus.n_rows,
        "n_used": len(rows),
        "hours": sum(row.seconds for row in rows) / 3600,
        "refused": manifest.quarantined,
        "refused_rows": read_quarantine(config.prepare.features),
        "speakers": _speakers(rows),
        "sample_rates": _bandwidths(measures),
        "characters": characters(texts),
        "pairs_never_heard": pairs_never_heard(texts),
        "same_text": duplicates(texts, ids),
        "same_recording": duplicates((m.sha256 for m in measures), ids),
        "rows": [
            {
                "id": rows[n].id,
                "text": rows[n].raw_text,
                "speaker": rows[n].speaker,
                "misfit": float(scores[n]),
                "player": players.get(n),
                "seconds": rows[n].seconds,
                "characters_per_second": len(rows[n].text) / rows[n].seconds,
                "pause_seconds": rows[n].cleaned.pause_seconds,
                "offset": rows[n].cleaned.offset,
                "loudness_db": measures[n].loudness,
                "snr_db": measures[n].snr,
                "clipped_share": measures[n].clipped,
                "bandwidth_hz": measures[n].bandwidth,
                "sample_rate_hz": measures[n].sample_rate,
            }
            for n in order.tolist()
        ],
        "long_pause_seconds": LONG_PAUSE_SECONDS,
    }


def _voice(model: str) -> Bundle:
    from dimts.families.acoustic.bundle import load_bundle  # brings torch

    return load_bundle(local_bundle(model))


def _misfits(
    rows: Sequence[Examined], config: DoctorConfig, bundle: Bundle | None
) -> NDArray[np.float64]:
    mels, texts = [row.mel for row in rows], [row.text for row in rows]
    speakers, languages = [row.speaker for row in rows], [row.language for row in rows]
    if bundle is None:
        tokenizer = corpus_tokenizer(config.corpus, config.text)
        return corpus_misfits(mels, texts, speakers, tokenizer, languages)
    from dimts.families.acoustic.model_misfit import model_misfits

    return model_misfits(bundle, mels, texts, speakers, languages)


def _rows(config: DoctorConfig) -> list[Examined]:
    language = config.corpus.language or load_language(config.text.language).code
    read = read_corpus(config.corpus, language)[0]
    segments = {row.id: row.segment for row in read if isinstance(row, Utterance)}
    features = FeatureSet.open(config.prepare.features)
    names = ("raw_text", "speaker", "seconds", *Cleaned._fields)
    rows = []
    for name in SPLITS:
        split = features.split(name)
        facts = list(zip(*map(split.values, names), strict=True))
        for n, (raw_text, speaker, seconds, *cleaned) in enumerate(facts):
            rows.append(
                Examined(
                    split.ids[n],
                    split.texts[n],
                    raw_text,
                    split.languages[n],
                    speaker,
                    seconds,
                    segments[split.ids[n]],
                    Cleaned(*cleaned),
                    split.mel(n),
                )
            )
    return rows


def _recordings(config: DoctorConfig, rows: Sequence[Examined]) -> Iterator[Decoded]:
    """What each row says, as it was recorded."""
    root, longest = root_of(config.corpus.path.absolute()), config.prepare.max_seconds
    with tqdm(total=len(rows), desc="measure", unit="utt") as bar:
        for first in range(0, len(rows), _CHUNK):
            segments = [row.segment for row in rows[first : first + _CHUNK]]
            audios = list(dict.fromkeys(segment.audio for segment in segments))
            with at_hand(root, audios, math.inf) as open_recording:
                for segment in segments:
                    try:
                        with open_recording(segment.audio) as (descriptor, _):
                            yield decode_audio(descriptor, longest, segment.start, segment.end)
                    except (OSError, AudioError) as error:
                        raise UserError(
                            f"{segment.audio}: has changed while it was examined ({error}); "
                            "give the command again"
                        ) from error
                    bar.update()


def _speakers(rows: Sequence[Examined]) -> dict[str, float]:
    """Speaker -> hours, the one with the most first."""
    hours: dict[str, float] = {}
    for row in rows:
        hours[row.speaker] = hours.get(row.speaker, 0.0) + row.seconds / 3600
    return dict(sorted(hours.items(), key=lambda item: (-item[1], item[0])))


def _bandwidths(measures: Sequence[Measures]) -> list[dict[str, float]]:
    """Of each sample rate, how many recordings have it and the median of their bandwidths."""
    rates = sorted({m.sample_rate for m in measures})
    of_rate = {rate: [m.bandwidth for m in measures if m.sample_rate == rate] for rate in rates}
    return [
        {"hz": rate, "recordings": len(widths), "bandwidth_hz": float(np.median(widths))}
        for rate, widths in of_rate.items()
    ]
