"""A voice as a folder that speaks without torch: two ONNX graphs, and its text as data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.bundles.fetch import new_folder
from dimts.core.errors import UserError
from dimts.export.acoustic_graph import OUTPUTS, AcousticGraph
from dimts.export.apps import write_for_apps
from dimts.export.onnx_file import Precision, in_precision, write_onnx
from dimts.export.package import facts, write_facts, write_runtime
from dimts.export.vocoder_graph import VocoderGraph
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.speaker import MAX_TOKENS, AcousticSpeaker
from dimts.families.registry import load_vocoder
from dimts.families.vocoder.model.generator import SUB_FRAMES
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.runtime.voice import ACOUSTIC, VOCODER, Voice

MAX_MEL_DIFFERENCE, MAX_WAVE_DB = 1e-3, -50.0
"""Of float32, from what torch computes: log mel, and the wave's difference by its power."""
NOT_IN_INT8 = ("decoder.out", "duration.out", "pitch.out", "pitch_net.last", "drawn.")
"""Weights of which the result is heard as it is."""
SAMPLE_WORDS, SAMPLE_LETTERS = 8, 5
PAGE = {"index.html": "page.html", "numbers.mjs": "numbers.mjs"}


class Exported(NamedTuple):
    """What was written, compared with torch on a text of the language's own letters.

    Attributes:
        size: bytes of the graphs and data.
        mel_difference: largest one of the log mel; NaN where durations differ.
        wave_db: power of the wave's difference by that of the wave; NaN likewise.
    """

    size: int
    mel_difference: float
    wave_db: float


def export_voice(
    bundle: Path, vocoder_bundle: Path, out: Path, precision: Precision = "fp32",
    page: bool = False, apps: bool = False,
) -> Exported:  # fmt: skip
    """Write a voice and its vocoder as a folder that `dimts.runtime.Voice` speaks from; with `page`
    a browser, with `apps` those of Piper and sherpa-onnx, too.

    Raises:
        UserError: `out` is there, the bundles do not fit together or cannot be exported, or in
            fp32 what was written computes something else than torch.
    """
    folder = new_folder(out)  # before minutes of work
    loaded, speaker = load_bundle(bundle), AcousticSpeaker.load(bundle)
    if speaker.tokenizer.spec.huggingface is not None:
        raise UserError(f"{bundle}: its tokens are no single characters, which export needs")
    vocoder = load_vocoder(vocoder_bundle, speaker.mel_config)
    if not isinstance(vocoder, NeuralVocoder):
        raise UserError(f"{vocoder_bundle}: only a vocoder that dimts trained can be exported")
    speaker.vocoder = vocoder
    text = sample_text(speaker)
    with folder as draft:
        _write_graphs(draft, speaker, vocoder, text, by_pairs=precision == "fp32")
        for name in (ACOUSTIC, VOCODER):
            in_precision(draft / name, precision, NOT_IN_INT8)
        write_facts(draft, facts(speaker, loaded, vocoder.model))
        write_runtime(draft)
        if apps:
            write_for_apps(draft)
        if page:
            for name, source in PAGE.items():
                shutil.copyfile(Path(__file__).with_name(source), draft / name)
        size = sum(file.stat().st_size for file in draft.iterdir() if file.is_file())
        found = Exported(size, *compare(speaker, Voice(draft), text))
        if precision == "fp32" and not (
            found.mel_difference <= MAX_MEL_DIFFERENCE and found.wave_db <= MAX_WAVE_DB
        ):
            raise UserError(
                f"{out}: what was written differs from the voice: log mel by "
                f"{found.mel_difference:.2g}, wave by {found.wave_db:.0f} dB; nothing is kept"
            )
    return found


def sample_text(speaker: AcousticSpeaker) -> str:
    """Words of the letters of the language that is spoken by default."""
    language = speaker.tokenizer.normaliser(speaker.language).language
    letters = [c for c in language.alphabet if c not in language.punctuation]
    step = max(1, len(letters) // (SAMPLE_WORDS * SAMPLE_LETTERS))
    chosen = "".join(letters[::step][: SAMPLE_WORDS * SAMPLE_LETTERS])
    return " ".join(
        chosen[at : at + SAMPLE_LETTERS] for at in range(0, len(chosen), SAMPLE_LETTERS)
    )


def compare(speaker: AcousticSpeaker, voice: Voice, text: str) -> tuple[float, float]:
    """Largest difference of the log mel, and dB of the wave's; NaN where durations differ."""
    expected, ids = speaker.mel(text), speaker.tokenizer.encode(text, speaker.language)
    found = voice.mel(ids)
    if not np.array_equal(found["durations"], expected.durations_NS):
        return float("nan"), float("nan")
    difference = float(np.abs(found["mel"] - expected.mel_TM).max())
    wave = speaker.vocode(expected.mel_TM, expected.f0_T)
    return difference, difference_db(wave, voice.vocode(found))


def difference_db(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Power of the difference of two waves of one length, by that of the first, in dB."""
    power, off = (
        float(np.square(w, dtype=np.float64).mean()) for w in (expected, actual - expected)
    )
    return 10 * float(np.log10(max(off, 1e-30) / max(power, 1e-30)))


def _write_graphs(
    folder: Path, speaker: AcousticSpeaker, vocoder: NeuralVocoder, text: str, by_pairs: bool
) -> None:
    """Write both graphs, of which a text is the example that they are traced by."""
    ids_N = torch.tensor(speaker.tokenizer.encode(text, speaker.language))
    # Two tensors: one that is given twice would become one input.
    given = {"ids": ids_N, "speed": torch.ones(1), "pitch": torch.ones(1)}
    if speaker.voices:
        given["speaker"] = torch.zeros(1, dtype=torch.int64)
    acoustic = AcousticGraph(speaker.model, vocoder.model, by_pairs).eval()
    n_tokens = torch.export.Dim("n_tokens", min=3, max=MAX_TOKENS)
    write_onnx(acoustic, given, {"ids": n_tokens}, OUTPUTS, folder / ACOUSTIC)
    with torch.inference_mode():
        mel_TM, f0_T, voiced_T, cycles_T, _ = acoustic(*given.values())
    n_frames = torch.export.Dim("n_frames", min=2)
    noise = vocoder.model.noise_from(0, len(mel_TM))[0]
    shown = {"mel": mel_TM, "f0": f0_T, "voiced": voiced_T, "cycles": cycles_T}
    shown = {name: tensor.clone() for name, tensor in shown.items()}
    dynamic = dict.fromkeys(shown, n_frames) | {"noise": SUB_FRAMES * n_frames}
    graph = VocoderGraph(vocoder.model)
    write_onnx(graph, {**shown, "noise": noise}, dynamic, ["wave"], folder / VOCODER)
