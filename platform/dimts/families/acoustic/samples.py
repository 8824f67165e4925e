"""What a run sounds and looks like at a step: spoken sentences, mels, an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dimts.audio.files import write_wav
from dimts.core.threads import one_thread
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.plotting.mel import alignment_plot, mel_plot
from dimts.training.task import Sample, Samples

STEP_FOLDER = "step_{:06d}"


def make_samples(
    settings: AcousticSettings, data: Data, model: T3, folder: Path, step: int
) -> Samples:
    """Speak the sample texts, and plot how the first validation recording is aligned.

    Args:
        settings: of the run.
        data: of the run.
        model: as it is now, in eval mode.
        folder: of all samples of the run.
        step: of the training.

    Returns:
        The samples of this step and of those before it.
    """
    speaker = AcousticSpeaker(model, data.tokenizer, settings.mel)
    texts = settings.training.sample_texts or data.val.utterances.texts[-2:]
    spoken = speak_samples(speaker, texts, step, folder, data.language)
    plots = [plot for sample in spoken for plot in sample.plots]
    if len(data.val):
        plots += plot_alignment(model, data, 0, folder / STEP_FOLDER.format(step))
    return Samples(all_samples(folder, texts), plots)


def speak_samples(
    speaker: AcousticSpeaker,
    texts: Sequence[str],
    step: int,
    folder: Path,
    language: str | None = None,
) -> list[Sample]:
    """Speak each text into a wav of ``folder/step_STEP``, with a plot of its mel.

    `language` is the texts'; None: the tokenizer's default.
    """
    hop_s = speaker.mel_config.hop_length / speaker.sample_rate
    samples = [_sample(folder, step, number, text) for number, text in enumerate(texts, start=1)]
    for sample in samples:
        mel_TM = speaker.mel(sample.text, language=language).mel_TM
        write_wav(sample.wav, speaker.vocode(mel_TM), speaker.sample_rate)
        mel_plot(sample.plots[0], mel_TM, title=sample.text, hop_s=hop_s)
    return samples


def all_samples(folder: Path, texts: Sequence[str]) -> list[Sample]:
    """What `speak_samples` has written at any step, before a restart too."""
    steps = sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))
    samples = [_sample(folder, s, k, text) for s in steps for k, text in enumerate(texts, start=1)]
    return [sample for sample in samples if sample.wav.exists() and sample.plots[0].exists()]


def _sample(folder: Path, step: int, number: int, text: str) -> Sample:
    stem = folder / STEP_FOLDER.format(step) / f"sentence_{number}"
    plot = stem.with_name(f"{stem.name}_mel.png")
    return Sample(step, text, stem.with_suffix(".wav"), (plot,))


@torch.no_grad()
def plot_alignment(model: T3, data: Data, index: int, folder: Path) -> list[Path]:
    """Plot the alignment that the model finds in a recording of the validation split, and
    the mel that it speaks by itself beside the recording's."""
    corpus, tokenizer, mel = data.val, data.tokenizer, data.features[0].manifest.mel
    hop_s = mel.hop_length / mel.sample_rate
    batch = corpus.collate([index]).to(model.mel_mean_M.device)
    with one_thread():
        output = model(
            batch.tokens_BN, batch.n_tokens_B, model.normalise(batch.mel_BTM), batch.n_frames_B
        )
        spoken = model(batch.tokens_BN, batch.n_tokens_B)
    recorded_TM = batch.mel_BTM[0].cpu().numpy()
    text = corpus.utterances.texts[index]
    alignment_png, mel_png = folder / "alignment.png", folder / "recording_mel.png"
    ids = batch.tokens_BN[0].tolist()
    tokens = ["" if i in tokenizer.special_ids else tokenizer.tokens[i] for i in ids]
    durations = output.durations_BNS[0].sum(-1).cpu().numpy()
    alignment_plot(alignment_png, recorded_TM, durations, tokens, title=text, hop_s=hop_s)
    spoken_TM = model.denormalise(spoken.mel_BTM)[0].cpu().numpy()
    mel_plot(mel_png, spoken_TM, recorded_TM, title=text, hop_s=hop_s)
    return [alignment_png, mel_png]
