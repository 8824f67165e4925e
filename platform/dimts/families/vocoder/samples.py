"""What a vocoder sounds like at a step: recordings spoken again from their mels."""

from __future__ import annotations

from pathlib import Path

from dimts.audio.files import write_wav
from dimts.families.vocoder.data import Data
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.plotting.mel import mel_plot
from dimts.training.task import Samples, samples_of, samples_so_far

N_SAMPLES = 2


def make_samples(data: Data, model: Vocoder, folder: Path, step: int) -> Samples:
    """Speak the first validation recordings again, and plot their mels.

    Args:
        data: of the run.
        model: as it is now, in eval mode.
        folder: of all samples of the run.
        step: of the training.

    Returns:
        The samples of this step and of those before it.
    """
    vocoder = NeuralVocoder(model)
    mel = model.mel
    hop_s = mel.hop_length / mel.sample_rate
    ids = data.val.ids[:N_SAMPLES]
    for index, sample in enumerate(samples_of(folder, step, ids, "recording")):
        recorded_TM = data.val.recording(index).mel_TM
        wave = vocoder(recorded_TM)
        write_wav(sample.wav, wave, mel.sample_rate)
        mel_plot(sample.plots[0], vocoder.mel_of(wave), recorded_TM, title=sample.text, hop_s=hop_s)
    return Samples(samples_so_far(folder, ids, "recording"))
