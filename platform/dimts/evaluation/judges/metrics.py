"""The metrics of all judges, the only list of them; loads no network."""

from __future__ import annotations

from functools import partial

from dimts.core.metric import Metric

_judged = partial(Metric, when="measured", tables=("held_out", "promotion"))

CER = _judged("cer", "character error rate, %", "%", short="CER", digits=1)
WER = _judged("wer", "word error rate, %", "%", short="WER", digits=1)
MISREAD = _judged("misread", "letters misread by the reader, %", "%", short="misread", digits=1)
NATURALNESS = _judged(
    "naturalness", "naturalness, DistillMOS", direction="maximize", short="natural", digits=2
)
DNSMOS = _judged("dnsmos", "quality, DNSMOS", direction="maximize", short="DNSMOS", digits=2)
SPEAKER_SIMILARITY = _judged(
    "speaker_similarity", "speaker similarity", direction="maximize", short="speaker"
)
RIGHT_SPEAKER = _judged(
    "right_speaker", "right speaker is the nearest", direction="maximize", digits=2
)
LOG_F0_RMSE = _judged("log_f0_rmse", "pitch, RMSE of log F0", short="F0 error")
WAVE_MCD = _judged("wave_mcd", "distortion of the wave, dB", "dB", short="wave MCD", digits=2)

F0_MEAN = _judged("f0_mean", "pitch, mean, Hz", "Hz", short="F0", digits=1)
F0_SPREAD = _judged(
    "f0_spread", "pitch, spread, semitones", "semitones", short="F0 spread", digits=2
)
JUDGED = (
    CER, WER, MISREAD, NATURALNESS, DNSMOS, SPEAKER_SIMILARITY, RIGHT_SPEAKER, LOG_F0_RMSE,
    WAVE_MCD,
)  # fmt: skip
STATISTICS = (F0_MEAN, F0_SPREAD)
"""Neither direction of them is better: they are read beside the recordings' own."""

WEIGHTS = {CER.name: "characters", WER.name: "words", MISREAD.name: "letters"}
"""Metric -> key of the scores by which its mean over clips is weighted."""

OF_JUDGE = {
    "recognition": (CER, WER),
    "naturalness": (NATURALNESS,),
    "dnsmos": (DNSMOS,),
    "speaker": (SPEAKER_SIMILARITY, RIGHT_SPEAKER),
    "pitch": (LOG_F0_RMSE, *STATISTICS),
    "distortion": (WAVE_MCD,),
    "reading": (MISREAD,),
}
"""Name of a judge -> what it measures, the first foremost."""
