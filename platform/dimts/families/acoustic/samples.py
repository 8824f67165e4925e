"""What a run sounds and looks like at a step: spoken sentences, mels, an alignment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from dimts.audio.files import write_wav
from dimts.core.threads import one_thread
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import use_shipped_vocoder
from dimts.plotting.mel import mel_plot
from dimts.training.task import Samples, samples_of, samples_so_far


def make_samples(
    settings: AcousticSettings, data: Data, model: T3, folder: Path, step: int
) -> Samples:
    """Speak the sample texts, and plot how the first validation recording is aligned.

    The model is in eval mode; `folder` is that of all the run's samples. Returned are those of this
    step and of those before it, before a restart too.
    """
    known = data.tokenizer, settings.mel, data.language, data.speakers, data.speaker
    speaker = AcousticSpeaker(model, *known)
    use_shipped_vocoder(speaker)
    texts = settings.training.sample_texts or data.val.utterances.texts[-2:]
    hop_s = settings.mel.hop_length / settings.mel.sample_rate
    plots: list[Path] = []
    for sample in samples_of(folder, step, texts, "sentence"):
        mel_TM, _, f0_T = speaker.mel(sample.text)
        write_wav(sample.wav, speaker.vocode(mel_TM, f0_T), speaker.sample_rate)
        mel_plot(sample.plots[0], mel_TM, title=sample.text, hop_s=hop_s)
        plots += sample.plots
    if len(data.val):
        plots += _plot_alignment(model, data, folder / f"step_{step:06d}", hop_s)
    return Samples(samples_so_far(folder, texts, "sentence"), plots)


@torch.no_grad()
def _plot_alignment(model: T3, data: Data, folder: Path, hop_s: float) -> list[Path]:
    """Plot the alignment that the model finds in the first validation recording, and the mel that
    it speaks by itself beside the recording's."""
    corpus, tokenizer = data.val, data.tokenizer
    batch = corpus.collate([0]).to(model.mel_mean_M.device)
    with one_thread():
        say = partial(model, batch.tokens_BN, batch.n_tokens_B, speakers_B=batch.speakers_B)
        output = say(mel_BTM=model.normalise(batch.mel_BTM), n_frames_B=batch.n_frames_B)
        spoken = say()
    recorded_TM = batch.mel_BTM[0].cpu().numpy()
    text = corpus.utterances.texts[0]
    alignment_png, mel_png = folder / "alignment.png", folder / "recording_mel.png"
    ids = batch.tokens_BN[0].tolist()
    tokens = ["" if i in tokenizer.special_ids else tokenizer.tokens[i] for i in ids]
    durations = output.durations_BNS[0].sum(-1).cpu().numpy()
    mel_plot(alignment_png, recorded_TM, None, text, hop_s, durations, tokens)
    spoken_TM = model.denormalise(spoken.mel_BTM)[0].cpu().numpy()
    mel_plot(mel_png, spoken_TM, recorded_TM, title=text, hop_s=hop_s)
    return [alignment_png, mel_png]
