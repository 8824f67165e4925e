"""The vocoder that ships: a pitch net and a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimts.audio.mel import MelConfig
from dimts.families.vocoder.model.config import ModelConfig
from dimts.families.vocoder.model.excitation import cycles_at_frames
from dimts.families.vocoder.model.generator import SUB_FRAMES, Generator
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet

NOISE_FRAMES = 1024
"""After which the noise of speech repeats itself, in frames of the mel: seconds."""


class Vocoder(nn.Module):
    """Log mel to wave.

    Args:
        config: sizes.
        mel: spec of the mels.

    Attributes:
        mel_mean, mel_std: of all bins of the training frames together, which a mel is normalised
            with; buffers, so that they are part of the weights.
    """

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, config: ModelConfig, mel: MelConfig):
        super().__init__()
        self.config, self.mel = config, mel
        self.pitch_net = PitchNet(config.pitch, mel.n_mels)
        self.generator = Generator(config.generator, mel)
        self.register_buffer("mel_mean", torch.tensor(-5.0))
        self.register_buffer("mel_std", torch.tensor(2.5))
        self._noise: Tensor | None = None
        if "pitch" in config.freeze:
            self.pitch_net.requires_grad_(False)

    def normalise(self, mel_BTM: Tensor) -> Tensor:
        """Natural-log mel as the nets see it."""
        return (mel_BTM - self.mel_mean) / self.mel_std

    def find_pitch(self, mel_BTM: Tensor) -> Pitch:
        """F0 and voicing of a natural-log mel, as the pitch net reads them."""
        return self.pitch_net.pitch(*self.pitch_net(self.normalise(mel_BTM)))

    def forward(
        self, mel_BTM: Tensor, pitch: Pitch | None = None, start: int = 0,
        cycles_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Samples, [B, T * hop], with the noise that speech is made of.

        Args:
            mel_BTM: natural-log mel.
            pitch: of each frame; None: the pitch net's.
            start: frames that have gone before; the noise goes on from there.
            cycles_BT: of F0 at each frame; None: from zero on.
        """
        if pitch is None:
            pitch = self.find_pitch(mel_BTM)
        if cycles_BT is None:
            hop, rate = self.mel.hop_length, self.mel.sample_rate
            cycles_BT = cycles_at_frames(pitch, hop, rate)[:, :-1]
        noise = self.noise_from(start, mel_BTM.shape[1]).expand(len(mel_BTM), -1, -1, -1)
        return self.generator(mel_BTM, self.normalise(mel_BTM), pitch, cycles_BT, noise)

    def noise_from(self, start: int, n_frames: int) -> Tensor:
        """Standard normal noise of some frames, [1, n_frames * SUB_FRAMES, 2, n_bins]: the same
        each time."""
        noise, device = self._noise, self.mel_mean.device
        if noise is None or noise.device != device:
            drawn = torch.Generator().manual_seed(0)
            size = (NOISE_FRAMES * SUB_FRAMES, 2, self.generator.n_bins)
            self._noise = noise = torch.randn(size, generator=drawn).to(device)
        first = start % NOISE_FRAMES * SUB_FRAMES
        wanted = n_frames * SUB_FRAMES
        if first + wanted <= len(noise):
            return noise[None, first : first + wanted]
        index = (torch.arange(wanted, device=device) + first) % len(noise)
        return noise[None, index]
