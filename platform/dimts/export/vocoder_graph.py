"""The vocoder's generator as it speaks one mel, with operations that ONNX has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.export.convolution import FrameProduct, shifted
from dimts.families.vocoder.model.convnext import Block, FrameWindows
from dimts.families.vocoder.model.excitation import pulse_train
from dimts.families.vocoder.model.generator import LOG_F0, SUB_FRAMES, Generator
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet
from dimts.families.vocoder.model.stft import OVERLAP
from dimts.families.vocoder.model.vocoder import Vocoder


class VocoderGraph(nn.Module):
    """What `Vocoder.forward` computes of one row, Fourier transforms as products."""

    real_SF: Tensor
    imaginary_SF: Tensor
    from_real_FS: Tensor
    from_imaginary_FS: Tensor
    squares: Tensor

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder, generator = vocoder, vocoder.generator
        self.first = _product(generator.first)
        self.hop, self.rate = vocoder.mel.hop_length, vocoder.mel.sample_rate
        n_fft, n_bins = len(generator.window), generator.n_bins
        window_S = generator.window.double().numpy()
        bins = np.fft.rfft(np.eye(n_fft) * window_S)
        waves = np.fft.irfft(np.concatenate([np.eye(n_bins), 1j * np.eye(n_bins)]), n_fft)
        from_real_FS, from_imaginary_FS = np.split(waves * window_S, 2)
        for name, matrix in (
            ("real_SF", bins.real), ("imaginary_SF", bins.imag), ("from_real_FS", from_real_FS),
            ("from_imaginary_FS", from_imaginary_FS),
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(matrix.copy()).float())
        self.register_buffer("squares", generator.window.square().view(1, OVERLAP, -1))
        self.drawn = nn.ModuleList(_part(generator.last, n_bins, i) for i in range(3))

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
        x_TD = F.layer_norm(x_TD, x_TD.shape[-1:])
        gain, phase, noise_gain = (
            part(x_TD).view(n * SUB_FRAMES, generator.n_bins) for part in self.drawn
        )
        envelope_KF = generator._envelope(mel_TM[None])[0]
        gain, noise_gain = (gain + envelope_KF).exp(), (noise_gain + envelope_KF).exp()
        turned, across = gain * phase.cos(), gain * phase.sin()
        windows_KS = self._windows(pulses.wave_BS[0])
        real, imaginary = windows_KS @ self.real_SF, windows_KS @ self.imaginary_SF
        return self._overlap_add(
            noise_gain * noise[:, 0] + turned * real - across * imaginary,
            noise_gain * noise[:, 1] + turned * imaginary + across * real,
        )

    def _windows(self, wave_S: Tensor) -> Tensor:
        """The pieces of a wave that overlap, [K, S]; see `stft.spectrum`."""
        step = len(self.real_SF) // OVERLAP
        steps = F.pad(wave_S.view(-1, step), (0, 0, OVERLAP // 2, OVERLAP // 2 - 1))
        n = steps.shape[0] - OVERLAP + 1
        return torch.cat([steps[k : k + n] for k in range(OVERLAP)], 1)

    def _overlap_add(self, real_KF: Tensor, imaginary_KF: Tensor) -> Tensor:
        """See `stft.overlap_add`."""
        n, half = real_KF.shape[0], OVERLAP // 2
        waves_KS = real_KF @ self.from_real_FS + imaginary_KF @ self.from_imaginary_FS
        total = _added(waves_KS.unflatten(1, (OVERLAP, -1)))
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


def _blocks(x_TD: Tensor, net: PitchNet | Generator) -> Tensor:
    for block in net.blocks:
        assert isinstance(block, Block)
        near = shifted(x_TD, len(block.depthwise_KD))
        mixed = near[0] * block.depthwise_KD[0]
        for k, x in enumerate(near[1:], start=1):
            mixed = mixed + x * block.depthwise_KD[k]
        y_TD = F.layer_norm(mixed, mixed.shape[-1:])
        x_TD = x_TD + block.contract(F.gelu(block.expand(y_TD)))
    return x_TD


def _product(windows: FrameWindows) -> FrameProduct:
    linear = windows.linear
    return FrameProduct(linear.weight.view(len(linear.weight), -1, windows.kernel), linear.bias)


def _part(last: nn.Linear, n_bins: int, i: int) -> nn.Linear:
    """One of the three things that a layer draws of each bin, as a layer of its own."""
    part = nn.Linear(last.in_features, SUB_FRAMES * n_bins)
    with torch.no_grad():
        part.weight.copy_(last.weight.view(SUB_FRAMES, 3, n_bins, -1)[:, i].flatten(0, 1))
        part.bias.copy_(last.bias.view(SUB_FRAMES, 3, n_bins)[:, i].flatten())
    return part


def _added(pieces_KOs: Tensor) -> Tensor:
    """Frames cut into pieces of a step, added where they lie over each other, [K + 3, s]."""
    return torch.stack(
        [F.pad(pieces_KOs[:, j], (0, 0, j, OVERLAP - 1 - j)) for j in range(OVERLAP)]
    ).sum(0)
