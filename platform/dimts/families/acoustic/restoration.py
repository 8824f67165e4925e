"""Measuring what a model's predictions lose, when its bundle is written."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from dimts.core.threads import one_thread
from dimts.families.acoustic.dataset import Corpus, draw, of_speaker
from dimts.families.acoustic.model.t3 import T3, T3Output
from dimts.families.acoustic.postfilter import postfilter_gains

MAX_SENTENCES = 32
MAX_F0_GAIN = 2.0


@torch.no_grad()
def with_restoration(model: T3, weights: Mapping[str, Tensor], corpus: Corpus) -> dict[str, Tensor]:
    """The weights with the spread of F0 and the gains of the postfilter measured.

    Training sentences are spoken as they would be from the bundle, and compared with their
    recordings.

    Args:
        model: of the weights' sizes; is not changed.
        weights: of a bundle that is being written.
        corpus: training split.
    """
    weights = dict(weights)
    if model.source is None and model.postfilter_FM is None:
        return weights
    spoken = copy.deepcopy(model).eval()
    spoken.load_state_dict(weights)
    few = draw(corpus, MAX_SENTENCES)
    rows = range(len(few))
    with one_thread():
        if spoken.source is not None:
            for speaker, gain in enumerate(spoken.source.gain.view(-1)):
                _set_gain(spoken, gain, draw(of_speaker(corpus, speaker), MAX_SENTENCES))
            weights["source.gain"] = spoken.source.gain
        if spoken.postfilter_FM is not None:
            outputs = (_speak(spoken, few, i) for i in rows)
            mels = (spoken.denormalise(output.mel_BTM)[0].cpu().numpy() for output in outputs)
            gains = postfilter_gains((few.utterances.mel(i) for i in rows), mels)
            weights["postfilter_FM"] = torch.from_numpy(gains)
    return weights


def _set_gain(model: T3, gain: Tensor, corpus: Corpus) -> None:
    """Measure what widens predicted F0 to the spread that a speaker's recordings have.

    Args:
        model: that the gain, a scalar, belongs to.
        gain: is filled; stays if there is nothing to measure.
        corpus: of one speaker.
    """
    if not len(corpus):
        return
    gain.fill_(1.0)
    predicted = spread_within(_f0(_speak(model, corpus, i)) for i in range(len(corpus)))
    found = spread_within(corpus.f0 or ()) / max(predicted, 1e-3)
    gain.fill_(min(max(found, 1.0), MAX_F0_GAIN))


def _speak(model: T3, corpus: Corpus, index: int) -> T3Output:
    batch = corpus.collate([index]).to(model.mel_mean_M.device)
    output: T3Output = model(batch.tokens_BN, batch.n_tokens_B, speakers_B=batch.speakers_B)
    return output


def _f0(output: T3Output) -> np.ndarray:
    assert output.f0_BT is not None
    return output.f0_BT[0].cpu().numpy()


def spread_within(f0: Iterable[np.ndarray]) -> float:
    """Standard deviation of natural-log F0 where voiced, within a sentence, in the mean of several;
    how far sentences are from each other is not what a listener hears in one."""
    voiced = (f0_T[f0_T > 0] for f0_T in f0)
    spreads = [float(np.log(of_one).std()) for of_one in voiced if len(of_one) > 1]
    return float(np.mean(spreads)) if spreads else 0.0
