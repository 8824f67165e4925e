"""The vocoder's parts against what they must be: sums of cosines, convolutions, inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from dimts.audio.mel import MelConfig, hann_window, log_mel
from dimts.audio.pitch import track_pitch
from dimts.families.vocoder.losses import SpectralDistance
from dimts.families.vocoder.model.config import GeneratorConfig, ModelConfig, PitchNetConfig
from dimts.families.vocoder.model.convnext import depthwise
from dimts.families.vocoder.model.excitation import cycles_at_frames, pulse_train
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet
from dimts.families.vocoder.model.stft import magnitudes, overlap_add, spectrum
from dimts.families.vocoder.model.vocoder import NOISE_FRAMES, Vocoder
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.training.adversarial import adversarial, hinge

MEL = MelConfig()
HOP, RATE = MEL.hop_length, MEL.sample_rate
SMALL = ModelConfig(
    pitch=PitchNetConfig(channels=16, hidden=32, blocks=2),
    generator=GeneratorConfig(channels=16, hidden=32, blocks=2),
)


def vocoder(seed: int = 0) -> Vocoder:
    torch.manual_seed(seed)
    model = Vocoder(SMALL, MEL).eval()
    for parameter in model.parameters():  # what is untrained would draw nearly nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def some_mel(n: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(n)
    return rng.normal(-5, 2, (n, MEL.n_mels)).astype(np.float32)


def window(n: int) -> torch.Tensor:
    own = MEL.model_copy(update={"n_fft": n, "win_length": n})
    return torch.from_numpy(hann_window(own))


def test_pulses_are_the_sum_of_the_harmonics_of_a_gliding_f0() -> None:
    f0_BT = torch.linspace(100, 140, 20)[None]
    pitch = Pitch(f0_BT, torch.ones_like(f0_BT))
    cycles_BT = cycles_at_frames(pitch, HOP, RATE)
    wave = pulse_train(pitch, cycles_BT[:, :-1], HOP, RATE).wave_BS[0].numpy()
    frames = np.arange(20 * HOP) / HOP
    f0_S = np.interp(frames, np.arange(20), f0_BT[0].numpy())
    # The phase of a sample is F0 summed up, by the trapezoidal rule exactly.
    phase = 2 * np.pi * np.concatenate([[0], np.cumsum((f0_S[1:] + f0_S[:-1]) / 2)]) / RATE
    highest = np.repeat(np.maximum(f0_S[::HOP], np.append(f0_S[HOP::HOP], f0_S[-1])), HOP)
    n_S = np.floor(0.98 * RATE / 2 / highest)
    harmonics = [np.where(k <= n_S, np.cos(k * phase), 0) for k in range(1, int(n_S.max()) + 1)]
    np.testing.assert_allclose(wave, np.sqrt(2 / n_S) * np.sum(harmonics, axis=0), atol=5e-3)
    assert np.square(wave).mean() == pytest.approx(1, abs=0.05)


def test_pulses_fade_with_the_f0_of_what_is_voiced() -> None:
    f0_BT = torch.tensor([[120.0, 120, 120, 400, 400]])
    pitch = Pitch(f0_BT, torch.tensor([[1.0, 1, 1, 0, 0]]))
    cycles_BT = cycles_at_frames(pitch, HOP, RATE)
    np.testing.assert_allclose(cycles_BT[0, 3], 3 * HOP * 120 / RATE, rtol=1e-6)
    pulses = pulse_train(pitch, cycles_BT[:, :-1], HOP, RATE)
    assert not pulses.wave_BS[0, 3 * HOP :].any()
    assert pulses.wave_BS[0, 2 * HOP : 3 * HOP].any()
    assert not pulses.phase_BTP[0, 3:].any()


def test_depthwise_is_a_convolution_with_its_gradients() -> None:
    torch.manual_seed(0)
    ours, weight = torch.randn(2, 9, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    theirs, kernel = (tensor.detach().clone().requires_grad_() for tensor in (ours, weight))
    expected = F.conv1d(theirs.transpose(1, 2), kernel.T[:, None], padding=3, groups=4)
    made, up = depthwise(ours, weight), torch.randn(2, 9, 4)
    torch.testing.assert_close(made, expected.transpose(1, 2))
    made.backward(up)
    expected.transpose(1, 2).backward(up)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(weight.grad, kernel.grad)
    with torch.no_grad():
        torch.testing.assert_close(depthwise(ours, weight), made)
        torch.testing.assert_close(depthwise(ours[:, :2], weight)[0, 0, 0], made[0, 0, 0] - sum(
            ours[0, k, 0] * weight[3 + k, 0] for k in (2, 3)
        ))  # fmt: skip


def test_wave_comes_back_from_its_spectrum() -> None:
    torch.manual_seed(0)
    wave_BS = torch.randn(2, 128 * 30)
    made = overlap_add(spectrum(wave_BS, window(512)), window(512))
    torch.testing.assert_close(made, wave_BS, atol=1e-4, rtol=1e-4)


def test_noise_follows_the_envelope_before_any_training() -> None:
    """An untrained vocoder speaks the mel of noise as noise of nearly that mel."""
    rng = np.random.default_rng(0)
    white = rng.normal(0, 0.1, RATE)
    wave = np.convolve(white, [1, 0.9], "same").astype(np.float32)
    torch.manual_seed(0)
    model = Vocoder(SMALL, MEL).eval()
    mel_TM = log_mel(wave, MEL)
    f0_T = np.zeros(len(mel_TM), np.float32)
    made = log_mel(NeuralVocoder(model)(mel_TM, f0_T), MEL)[5:-5].mean(0)
    off_M = made - mel_TM[5:-5].mean(0)
    assert off_M.std() < 0.15
    assert off_M.mean() == pytest.approx(-1.2, abs=0.2)


def test_same_mel_is_spoken_the_same() -> None:
    mel_TM = some_mel(50)
    one, other = NeuralVocoder(vocoder())(mel_TM), NeuralVocoder(vocoder())(mel_TM)
    assert np.array_equal(one, other)
    assert len(one) == 49 * HOP


@pytest.mark.parametrize("n", [2, 63, 64, 700])
@pytest.mark.parametrize("has_f0", [True, False])
def test_chunks_are_the_whole(n: int, has_f0: bool) -> None:
    """With F0 that goes up and down and is not always there."""
    spoken, mel_TM = NeuralVocoder(vocoder()), some_mel(n)
    f0_T = 150 + 50 * np.sin(np.arange(n, dtype=np.float32) / 9)
    f0_T[n // 3 : n // 2] = 0
    whole = spoken(mel_TM, f0_T if has_f0 else None)
    parts = list(spoken.chunks(mel_TM, f0_T if has_f0 else None))
    assert [len(part) for part in parts][:1] == [HOP * (32 if n >= 64 else n - 1)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-4)
    later = list(spoken.chunks(mel_TM, f0_T if has_f0 else None, soon=False))
    assert len(later) == (2 if n == 700 else 1)
    np.testing.assert_allclose(np.concatenate(later), whole, atol=2e-4)


def test_noise_goes_on_where_it_was() -> None:
    model = vocoder()
    long = model.noise_from(NOISE_FRAMES - 3, 10)
    torch.testing.assert_close(long[:, 6:], model.noise_from(0, 7))
    torch.testing.assert_close(long[:, :6], model.noise_from(NOISE_FRAMES - 3, 3))


def test_f0_that_is_handed_over_is_spoken() -> None:
    mel_TM = np.full((60, MEL.n_mels), -3, np.float32)
    torch.manual_seed(0)
    spoken = NeuralVocoder(Vocoder(SMALL, MEL).eval())
    for f0 in (110.0, 230.0):
        wave = spoken(mel_TM, np.full(60, f0, np.float32))
        assert np.median(track_pitch(wave, RATE, HOP)) == pytest.approx(f0, rel=0.01)


def test_pitch_net_learns_the_class_of_its_target() -> None:
    net = PitchNet(SMALL.pitch, MEL.n_mels)
    target = Pitch(torch.full((1, 5), 200.0), torch.tensor([[1.0, 1, 1, 0, 0]]))
    off = (net.log_f0_C - math.log(200)).abs()
    scores_BTC = (-off * 40).expand(1, 5, -1)
    voicing_BT = torch.tensor([[9.0, 9, 9, -9, -9]])
    right, wrong = (
        net.loss(scores_BTC, voicing_BT, target),
        net.loss(-scores_BTC, -voicing_BT, target),
    )
    assert float(right.value_B) < float(wrong.value_B)
    assert (float(right.wrong_B), float(wrong.wrong_B)) == (0.0, 1.0)
    assert float(net.pitch(scores_BTC, voicing_BT).f0_BT[0, 0]) == pytest.approx(200, rel=0.005)


def test_distance_is_zero_of_the_same_and_grows_with_noise() -> None:
    distance = SpectralDistance(MEL)
    torch.manual_seed(0)
    wave_BS = 0.1 * torch.randn(2, 8192)
    far = []
    for noise in (0.0, 0.01, 0.1):
        other_BS = wave_BS + noise * torch.randn_like(wave_BS)
        far.append(distance.stft(distance.spectra(other_BS), distance.spectra(wave_BS)))
    assert torch.allclose(far[0], torch.zeros(2), atol=1e-5)
    assert (far[1] < far[2]).all()
    assert (far[1] > 0.01).all()
    twice = distance.mel_error(2 * wave_BS, wave_BS)
    torch.testing.assert_close(twice, torch.full((2,), math.log(2)), atol=1e-3, rtol=0)


def test_magnitudes_are_those_of_torch() -> None:
    torch.manual_seed(0)
    wave_BS = torch.randn(1, 2000)
    expected = torch.stft(wave_BS, 512, 128, window=window(512), return_complex=True).abs()
    torch.testing.assert_close(magnitudes(wave_BS, window(512), 0.0), expected.transpose(1, 2))


def test_hinge_is_zero_once_both_are_told_apart() -> None:
    real, made = [torch.full((2, 1, 3, 3), 1.5)], [torch.full((2, 1, 3, 3), -2.0)]
    torch.testing.assert_close(hinge(real, made), torch.zeros(2))
    torch.testing.assert_close(hinge(made, real), torch.full((2,), 5.5))
    torch.testing.assert_close(adversarial(made), torch.full((2,), 2.0))


def test_mel_that_no_speech_has_makes_samples_all_the_same() -> None:
    loud_TM = np.full((30, MEL.n_mels), 1e6, np.float32)
    wave = NeuralVocoder(vocoder())(loud_TM)
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() <= 1
    with pytest.raises(ValueError, match="NaN or infinite"):
        NeuralVocoder(vocoder())(np.full((30, MEL.n_mels), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"mel must be \[T, 80\], not \[30, 79\]"):
        NeuralVocoder(vocoder())(loud_TM[:, :79])
