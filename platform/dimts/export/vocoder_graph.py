"""The vocoder's generator as it speaks one mel, with operations that ONNX has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.export.convolution import FrameProduct, depthwise
from dimts.families.vocoder.model.convnext import Block, FrameWindows
from dimts.families.vocoder.model.excitation import pulse_train
from dimts.families.vocoder.model.generator import LOG_F0, SUB_FRAMES, Generator
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet
from dimts.families.vocoder.model.stft import OVERLAP
from dimts.families.vocoder.model.vocoder import Vocoder


class VocoderGraph(nn.Module):
    """What `Vocoder.forward` computes of one row, Fourier transforms as products.

    A cosine is even around the centre of a window and a sine odd, so each product is with half of
    the samples: the sums, and the differences, of those that lie as far from the centre.
    """

    from_even_HF: Tensor
    from_odd_HF: Tensor
    to_even_FH: Tensor
    to_odd_FH: Tensor
    first_s: Tensor
    last_2s: Tensor

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder, generator = vocoder, vocoder.generator
        self.first = _product(generator.first)
        self.hop, self.rate = vocoder.mel.hop_length, vocoder.mel.sample_rate
        n_fft, n_bins = len(generator.window), generator.n_bins
        window_S = generator.window.double().numpy()
        assert window_S[0] == 0  # it has no partner
        half = slice(1, n_fft // 2 + 1)
        bins = np.fft.rfft(np.eye(n_fft) * window_S)[half]
        waves = np.fft.irfft(np.concatenate([np.eye(n_bins), 1j * np.eye(n_bins)]), n_fft)
        even, odd = np.split(waves * window_S, 2)
        squares = np.square(window_S).reshape(OVERLAP, -1)
        weight = squares.sum(0).mean()  # of Hann windows it is the same everywhere
        for name, matrix in (
            ("from_even_HF", bins.real), ("from_odd_HF", bins.imag),
            ("to_even_FH", even[:, half] / weight), ("to_odd_FH", odd[:, half] / weight),
            ("first_s", weight / squares[:3].sum(0)[None]),
            ("last_2s", weight / np.stack([squares[1:].sum(0), squares[2:].sum(0)])),
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(matrix.copy()).float())
        self.from_even_HF[-1] /= 2  # the centre is its own partner
        self.to_even_FH[:, -1] /= 2
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
        seen = torch.cat([shown, pulses.phase_BTP.squeeze(0), told_T2], -1)
        x_TD = _blocks(self.first(seen), generator)
        x_TD = F.layer_norm(x_TD, x_TD.shape[-1:])
        gain, phase, noise_gain = (
            part(x_TD).view(n * SUB_FRAMES, generator.n_bins) for part in self.drawn
        )
        envelope_KF = generator._envelope(mel_TM[None]).squeeze(0)
        gain, noise_gain = (gain + envelope_KF).exp(), (noise_gain + envelope_KF).exp()
        turned, across = gain * phase.cos(), gain * phase.sin()
        real, imaginary = self._spectrum(pulses.wave_BS.squeeze(0))
        return self._overlap_add(
            noise_gain * noise[:, 0] + turned * real - across * imaginary,
            noise_gain * noise[:, 1] + turned * imaginary + across * real,
        )

    def _spectrum(self, wave_S: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts, [K, F] both; see `stft.spectrum`."""
        step = 2 * len(self.from_even_HF) // OVERLAP
        # Samples 1 ... H of each window from its beginning, and from its end.
        onward = F.pad(wave_S, (2 * step - 1, step + 1)).view(-1, step)
        back = F.pad(wave_S, (2 * step, step)).view(-1, step).flip(1)
        onward_KH = torch.cat([onward[:-3], onward[1:-2]], 1)
        back_KH = torch.cat([back[3:], back[2:-1]], 1)
        return (onward_KH + back_KH) @ self.from_even_HF, (onward_KH - back_KH) @ self.from_odd_HF

    def _overlap_add(self, real_KF: Tensor, imaginary_KF: Tensor) -> Tensor:
        """See `stft.overlap_add`."""
        even_KH, odd_KH = real_KF @ self.to_even_FH, imaginary_KF @ self.to_odd_FH
        onward, back = (even_KH + odd_KH).chunk(2, 1), (even_KH - odd_KH).chunk(2, 1)
        first = F.pad(onward[0][1:], (0, 0, 0, 2)) + F.pad(onward[1], (0, 0, 0, 1))
        second = F.pad(back[0][:-1], (0, 0, 1, 0)) + back[1]
        step = second.shape[1]
        total = first.flatten()[step - 1 : -1].view(-1, step) + second.flip(1)
        # Fewer windows lie over the ends.
        return torch.cat(
            [total[:1] * self.first_s, total[1:-2], total[-2:] * self.last_2s]
        ).flatten()


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
        mixed = depthwise(x_TD, block.depthwise_KD)
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
