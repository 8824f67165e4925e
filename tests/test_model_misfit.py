"""Texts that do not fit, found by a voice's own expectation of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from voice_fixtures import untrained, write_voice

from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.model.durations import look_up
from dimts.families.acoustic.model_misfit import model_misfits

TEXTS = [
    "ሰላም ነው።", "እንዴት ነህ?", "ደህና ነኝ።", "ቡና ጠጣ።", "ውሃ ጠጣ።", "ቤት ሄደ።", "መጽሐፍ ገዛ።", "ዛሬ መጣ።",
]  # fmt: skip


def test_a_model_finds_the_texts_that_were_not_said(tmp_path: Path) -> None:
    bundle = load_bundle(write_voice(tmp_path / "voice", untrained()))
    drawn = np.random.default_rng(0)
    mels: list[NDArray[np.float32]] = []
    for text in TEXTS:
        ids = bundle.tokenizer.encode_normalised(text)
        durations = torch.from_numpy(drawn.integers(3, 6, (1, len(ids), 2)))
        with torch.no_grad():
            said = bundle.model(
                torch.tensor([ids]), torch.tensor([len(ids)]), durations_BNS=durations
            )
            means_TM = look_up(said.means_BNSM.flatten(1, 2), said.state_BT)[0]
        mel_TM = bundle.model.denormalise(means_TM).numpy()
        mels.append((mel_TM + drawn.normal(0, 0.05, mel_TM.shape)).astype(np.float32))
    texts = [TEXTS[1], TEXTS[0], *TEXTS[2:]]
    scores = model_misfits(bundle, mels, texts, ["who"] * len(texts), ["am"] * len(texts))
    assert set(np.argsort(-scores)[:2].tolist()) == {0, 1}
    assert scores[:2].min() > 0.3
    assert np.abs(scores[2:]).max() < 0.1
    with pytest.raises(UserError, match="language 'es' is not one of this voice's"):
        model_misfits(bundle, mels, texts, ["who"] * len(texts), ["es"] * len(texts))
