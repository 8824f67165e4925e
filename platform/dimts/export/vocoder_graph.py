"""The vocoder's generator as it speaks one mel, with operations that ONNX has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.export.convolution import FrameProduct, shifted
from dimts.families.vocoder.model.convnext import FrameWindows
from dimts.families.vocoder.model.excitation import pulse_train
from dimts.families.vocoder.model.generator import LOG_F0, SUB_FRAMES
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet
from dimts.families.vocoder.model.stft import OVERLAP
from dimts.families.vocoder.model.vocoder import Vocoder


class VocoderGraph(nn.Module):
    """What `Vocoder.forward` computes of one row, Fourier transforms as products."""

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder, generator = vocoder, vocoder.generator
        self.first = _product(generator.first)
        self.hop, self.rate = vocoder.mel.hop_length, vocoder.mel.sample_rate
        n_fft, n_bins = len(generator.window), generator.n_bins
        window_S = generator.window.double().numpy()
        bins = np.fft.rfft(np.eye(n_fft) * window_S)
        waves = np.fft.irfft(np.concatenate([np.eye(n_bins), 1j * np.eye(n_bins)]), n_fft)
        into_SF = torch.from_numpy(np.concatenate([bins.real, bins.imag], 1)).float()
        self.register_buffer("into_SF", into_SF)
        self.register_buffer("back_FS", torch.from_numpy(waves * window_S).float())
        self.register_buffer("squares", generator.window.square().view(1, OVERLAP, -1))

    def forward(
        self, mel_TM: Tensor, f0_T: Tensor, voiced_T: Tensor, cycles_T: Tensor, noise: Tensor
    ) -> Tensor:
        """Samples, [T * hop]; see `Generator.forward`.

        Args:
            mel_TM: natural-log mel.
            f0_T: Hz, positive also where nothing is voiced.
            voiced_T: 1 where it is, else 0.
            cycles_T: of F0 at each frame, their whole ones left out.
            noise: standard normal [T * SUB_FRAMES, 2, n_bins], real and imaginary parts.
        """
        generator, n = self.vocoder.generator, mel_TM.shape[0]
        pulses = pulse_train(Pitch(f0_T[None], voiced_T[None]), cycles_T[None], self.hop, self.rate)
        told_T2 = torch.stack([f0_T.log() - LOG_F0, torch.ones_like(f0_T)], -1) * voiced_T[:, None]
        shown = self.vocoder.normalise(mel_TM)
        x_TD = _blocks(self.first(torch.cat([shown, pulses.phase_BTP[0], told_T2], -1)), generator)
        drawn_K3F = generator.last(F.layer_norm(x_TD, x_TD.shape[-1:])).view(
            n * SUB_FRAMES, 3, generator.n_bins
        )
        envelope_KF = generator._envelope(mel_TM[None])[0]
        gain, noise_gain = (drawn_K3F[:, i] + envelope_KF for i in (0, 2))
        gain, noise_gain, phase = gain.exp(), noise_gain.exp(), drawn_K3F[:, 1]
        turned, across = gain * phase.cos(), gain * phase.sin()
        real, imaginary = self._spectrum(pulses.wave_BS[0]).chunk(2, 1)
        bins_KF = torch.cat(
            [
                noise_gain * noise[:, 0] + turned * real - across * imaginary,
                noise_gain * noise[:, 1] + turned * imaginary + across * real,
            ],
            1,
        )
        return self._overlap_add(bins_KF)

    def _spectrum(self, wave_S: Tensor) -> Tensor:
        """Real parts and imaginary parts of the STFT, [K, 2 F]; see `stft.spectrum`."""
        step = len(self.into_SF) // OVERLAP
        steps = F.pad(wave_S.view(-1, step), (0, 0, OVERLAP // 2, OVERLAP // 2 - 1))
        n = steps.shape[0] - OVERLAP + 1
        return torch.cat([steps[k : k + n] for k in range(OVERLAP)], 1) @ self.into_SF

    def _overlap_add(self, bins_KF: Tensor) -> Tensor:
        """See `stft.overlap_add`."""
        n, half = bins_KF.shape[0], OVERLAP // 2
        total = _added((bins_KF @ self.back_FS).unflatten(1, (OVERLAP, -1)))
        weight = _added(self.squares.expand(n, -1, -1))
        return (total[half : half + n] / weight[half : half + n]).flatten()


class PitchGraph(nn.Module):
    """`Vocoder.find_pitch` of one row."""

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder, self.first = vocoder, _product(vocoder.pitch_net.first)

    def forward(self, mel_TM: Tensor) -> Pitch:
        """Natural-log mel [T, M] -> pitch of a batch of one."""
        net = self.vocoder.pitch_net
        x_TD = _blocks(self.first(self.vocoder.normalise(mel_TM)), net)
        scores = net.last(F.layer_norm(x_TD, x_TD.shape[-1:]))
        return net.pitch(scores[None, :, :-1], scores[None, :, -1])


def _blocks(x_TD: Tensor, net: PitchNet | nn.Module) -> Tensor:
    for block in net.blocks:
        near = shifted(x_TD, len(block.depthwise_KD))
        mixed = sum(x * block.depthwise_KD[k] for k, x in enumerate(near))
        y_TD = F.layer_norm(mixed, mixed.shape[-1:])
        x_TD = x_TD + block.contract(F.gelu(block.expand(y_TD)))
    return x_TD


def _product(windows: FrameWindows) -> FrameProduct:
    linear = windows.linear
    return FrameProduct(linear.weight.view(len(linear.weight), -1, windows.kernel), linear.bias)


def _added(pieces_KOs: Tensor) -> Tensor:
    """Frames cut into pieces of a step, added where they lie over each other, [K + 3, s]."""
    return torch.stack(
        [F.pad(pieces_KOs[:, j], (0, 0, j, OVERLAP - 1 - j)) for j in range(OVERLAP)]
    ).sum(0)
