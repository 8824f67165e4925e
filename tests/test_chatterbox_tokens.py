"""Speech tokens, prompts and vectors of recordings, and what they are kept by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from data_prep.extract import ExtractSettings
from data_prep.utterance import Segment
from dimts.audio.files import read_audio
from dimts.audio.trim import TrimConfig
from dimts.bundles.bundle import BundleError
from dimts.core.errors import UserError
from dimts.families.chatterbox.extractor import (
    PROMPT,
    SAMPLE_RATE,
    SPEAKER,
    SPEECH,
    TokenExtractor,
)
from dimts.families.chatterbox.random_projection import RandomProjection
from dimts.families.chatterbox.s3 import read_tensors
from dimts.families.chatterbox.tokens_config import RandomProjectionTokens, S3Tokens
from dimts.families.chatterbox.voice_encoder import VoiceEncoder, trimmed
from dimts.families.chatterbox.voices import read_voices

RANDOM = RandomProjectionTokens(digits=5)


@pytest.fixture(scope="module")
def recording(spoken_corpus: Path) -> NDArray[np.float32]:
    """Eight seconds of speech at 16 kHz."""
    waves = []
    for file in sorted((spoken_corpus / "wavs").glob("*.wav")):
        with file.open("rb") as stream:
            waves.append(read_audio(stream.fileno(), SAMPLE_RATE))
    return np.concatenate(waves)[: 8 * SAMPLE_RATE]


def test_tokens_are_25_a_second_and_the_same_each_time(recording: NDArray[np.float32]) -> None:
    tokens = RandomProjection(RANDOM).tokens
    for n in (SAMPLE_RATE, SAMPLE_RATE + 1, SAMPLE_RATE * 3 - 320):
        found = tokens(recording[:n])
        assert len(found) == np.ceil(n / SAMPLE_RATE * 25)
        assert np.array_equal(found, tokens(recording[:n]))
    whole = tokens(recording)
    assert whole.min() >= 0 and whole.max() < 3**5
    assert len(np.unique(whole)) > 60
    other = RandomProjection(RANDOM.model_copy(update={"seed": 1})).tokens(recording)
    assert np.mean(whole == other) < 0.2


def test_wave_of_tokens_has_about_the_same_tokens(recording: NDArray[np.float32]) -> None:
    quantiser = RandomProjection(RANDOM)
    tokens = quantiser.tokens(recording)
    again = quantiser.tokens(quantiser.wave(tokens, quantiser.speaker(recording)))
    powers = 3 ** np.arange(5)
    digits = [ids[: len(again), None] // powers % 3 for ids in (tokens, again)]
    assert np.mean(digits[0] == digits[1]) > 0.6  # of three, chance is a third
    assert np.mean(np.roll(digits[0], 30, axis=0) == digits[1]) < 0.45


def test_prompt_is_of_the_first_seconds_by_themselves(recording: NDArray[np.float32]) -> None:
    arrays = TokenExtractor.of(RANDOM).open()(recording, SAMPLE_RATE)
    assert arrays[SPEECH].dtype == arrays[PROMPT].dtype == np.int16
    assert len(arrays[PROMPT]) == 150
    alone = RandomProjection(RANDOM).tokens(recording[: 6 * SAMPLE_RATE])
    assert np.array_equal(arrays[PROMPT], alone)
    assert not np.array_equal(arrays[PROMPT], arrays[SPEECH][:150])
    assert arrays[SPEAKER].shape == (256,)


def test_tokens_are_kept_by_the_weights_that_made_them(tmp_path: Path) -> None:
    (tmp_path / "ve.safetensors").write_bytes(b"one")
    with pytest.raises(UserError, match=r"has no s3gen\.safetensors or s3gen\.pt; name the folder"):
        TokenExtractor.of(S3Tokens(model=tmp_path))
    (tmp_path / "s3gen.pt").write_bytes(b"two")

    def key() -> str:
        extractor = TokenExtractor.of(S3Tokens(model=tmp_path))
        return ExtractSettings(extractor, TrimConfig(), 1, 30).key("a" * 64, Segment("a.wav"))

    before = key()
    assert key() == before
    extractor = TokenExtractor.of(S3Tokens(model=tmp_path))
    (tmp_path / "s3gen.pt").write_bytes(b"three")
    assert key() != before
    with pytest.raises(UserError, match=r"s3gen\.pt: is not the file that this was begun with"):
        extractor.open()


@pytest.mark.parametrize("as_zip", [True, False])
def test_weights_of_either_format_are_read_and_more_than_weights_is_refused(
    tmp_path: Path, as_zip: bool
) -> None:
    file = tmp_path / "ve.pt"
    weights = {"proj.bias": torch.ones(3), "other.bias": torch.ones(1)}
    torch.save({"model": [weights]}, file, _use_new_zipfile_serialization=as_zip)
    read = read_tensors(file, "proj.")
    assert read.keys() == {"proj.bias"} and torch.equal(read["proj.bias"], torch.ones(3))
    torch.save({"model": tmp_path}, file, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(UserError, match=r"ve\.pt: holds more than weights") as refused:
        read_tensors(file)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"prompt:b": torch.tensor([1, 6561])}, "b: is no voice"),
        ({"prompt:b": torch.tensor([[1, 2]])}, "b: is no voice"),
        ({"vector:a": torch.full((256,), torch.nan)}, "a: is no voice"),
        ({"prompt:b": torch.ones(2, dtype=torch.bfloat16)}, "cannot be read"),
        ({"tokens_per_text_id": torch.tensor(torch.nan)}, "nan is no pace"),
        ({"tokens_per_text_id": torch.ones(2)}, "cannot be read"),
    ],
)
def test_bundled_voices_that_cannot_speak_are_refused(
    changed: dict[str, torch.Tensor], says: str | None, tmp_path: Path
) -> None:
    voices = {f"prompt:{name}": torch.tensor([0, 6560]) for name in "ab"}
    vectors = {f"vector:{name}": torch.ones(256) for name in "ab"}
    pace = {"tokens_per_text_id": torch.tensor(2.0)}
    save_file({**voices, **vectors, **pace, **changed}, tmp_path / "voices.safetensors")
    if says is None:
        assert read_voices(tmp_path).voices.keys() == {"a", "b"}
        return
    with pytest.raises(BundleError, match=says):
        read_voices(tmp_path)


def test_voice_encoder_gives_what_the_package_gives() -> None:
    """Values of chatterbox-light 1.0.2 with the same weights, of the same wave."""
    generator = torch.Generator().manual_seed(0)
    encoder = VoiceEncoder().eval()
    weights = encoder.state_dict()
    encoder.load_state_dict(
        {name: torch.randn(w.shape, generator=generator) * 0.1 for name, w in weights.items()}
    )
    t = np.arange(SAMPLE_RATE * 5) / SAMPLE_RATE
    wave = np.sin(2 * np.pi * (150 * t + 40 * t * t)) * 0.3 * (1 + np.sin(9 * t))
    vector = encoder.embed(wave.astype(np.float32))
    expected = [0.0740013, 0.1137039, 0.0675716, 0.0835279, 0.0, 0.0304021, 0.0394968, 0.0028368]
    assert vector[:8] == pytest.approx(expected, abs=2e-6)
    assert vector.argmax() == 30 and vector.max() == pytest.approx(0.2499459, abs=2e-6)


@pytest.mark.slow
def test_voice_encoder_hears_what_librosa_leaves(recording: NDArray[np.float32]) -> None:
    from librosa.effects import trim

    quiet = np.random.default_rng(0).normal(size=9000).astype(np.float32) * 1e-3
    for wave in (recording, np.concatenate([quiet, recording[5000:30000], quiet])):
        assert np.array_equal(trimmed(wave), trim(wave, top_db=20)[0])
    assert len(trimmed(np.zeros(4000, np.float32))) == 4000


@pytest.mark.slow
def test_s3_tokens_by_weights_in_a_folder(recording: NDArray[np.float32], tmp_path: Path) -> None:
    """Of weights that are drawn, in the files and under the names of the published ones."""
    model_v2 = pytest.importorskip("s3tokenizer.model_v2")
    torch.manual_seed(0)
    tokenizer = model_v2.S3TokenizerV2("speech_tokenizer_v2_25hz").eval()
    weights = {f"tokenizer.{name}": w for name, w in tokenizer.state_dict().items()}
    constants = {"tokenizer._mel_filters": torch.ones(1), "flow.other": torch.ones(1)}
    save_file({**weights, **constants}, tmp_path / "s3gen.safetensors")
    torch.save(VoiceEncoder().state_dict(), tmp_path / "ve.pt")
    extractor = TokenExtractor.of(S3Tokens(model=tmp_path))
    assert extractor.resources.actor
    arrays = extractor.open()(recording, SAMPLE_RATE)
    assert len(arrays[SPEECH]) == 200 and len(arrays[PROMPT]) == 150
    assert arrays[SPEECH].min() >= 0 and arrays[SPEECH].max() < 6561
    assert np.linalg.norm(arrays[SPEAKER]) == pytest.approx(1, abs=1e-5)
    minute = np.tile(recording, 5)[: 40 * SAMPLE_RATE]
    assert len(extractor.open()(minute, SAMPLE_RATE)[SPEECH]) == 1000
