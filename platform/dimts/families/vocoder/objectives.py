"""The two objectives: the generator's, with the pitch net's, and the discriminators'."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimts.families.vocoder.dataset import VocoderBatch
from dimts.families.vocoder.losses import Spectra, SpectralDistance
from dimts.families.vocoder.model.discriminator import Discriminators
from dimts.families.vocoder.model.excitation import cycles_at_frames
from dimts.families.vocoder.model.pitch_net import Pitch, PitchNet
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.training_config import VocoderTrainingConfig
from dimts.training.adversarial import adversarial, feature_matching, hinge
from dimts.training.precision import autocast
from dimts.training.task import Losses, Moment


class _Objective(nn.Module):
    """What both share: the wave that a vocoder makes of a batch in training."""

    def __init__(self, config: VocoderTrainingConfig, distance: SpectralDistance):
        super().__init__()
        self.config, self.distance = config, distance
        self.windows = config.discriminator.model.windows

    def _judged(self, spectra: Spectra, hop: int, start: int) -> list[Tensor]:
        """Log magnitudes of the piece that discriminators see."""
        n = self.config.discriminator.model.frames * hop
        steps = [window // 4 for window in self.windows]
        return [
            spectra[window][:, start * hop // step : (start * hop + n) // step].log()
            for window, step in zip(self.windows, steps, strict=True)
        ]

    def _piece(self, batch: VocoderBatch) -> int:
        """The frame at which that piece begins."""
        spare = batch.mel_BTM.shape[1] - self.config.discriminator.model.frames
        return int(torch.randint(max(0, spare) + 1, ()))


class GeneratorObjective(_Objective):
    """The distance from the recording, the pitch, and what the discriminators think of it."""

    def __init__(
        self, model: Vocoder, discriminators: Discriminators, config: VocoderTrainingConfig,
        distance: SpectralDistance,
    ):  # fmt: skip
        super().__init__(config, distance)
        self.model = model
        self._discriminators = [discriminators]  # in a list torch does not register them

    def forward(self, batch: VocoderBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's losses; see `dimts.training.task.Objective`."""
        share = batch.mel_BTM.shape[0] * batch.mel_BTM.shape[1] / batch.size
        target = Pitch(batch.f0_BT, batch.voiced_BT)
        net: PitchNet = self.model.pitch_net
        with autocast(batch.mel_BTM.device, self.config.amp):
            scores = net(self.model.normalise(batch.mel_BTM))
        classes_BTC, voicing_BT = scores
        pitch = net.loss(classes_BTC, voicing_BT, target)
        with torch.no_grad():
            own = net.pitch(classes_BTC, voicing_BT)
        wave_BS = made(self.model, self.config, batch, own, moment, self.training)
        ours, theirs = (self.distance.spectra(wave) for wave in (wave_BS, batch.wave_BS))
        stft = self.distance.stft(ours, theirs).mean()
        mel = self.distance.mel_error(wave_BS, batch.wave_BS).mean()
        weights = self.config.loss
        judged = self.training and moment.step >= self.config.discriminator.start_step
        of_stft = weights.stft_beside_discriminators if judged else weights.stft
        total = of_stft * stft + weights.mel * mel + weights.pitch * pitch.value_B.mean()
        losses = {"stft": stft, "mel": mel, "pitch": pitch.value_B.mean()}
        losses["pitch_wrong"] = pitch.wrong_B.mean()
        if judged:
            with autocast(wave_BS.device, self.config.amp):
                fooled, features = self._opinion(batch, ours, theirs)
            total = total + weights.adversarial * fooled + weights.features * features
            losses |= {"adversarial": fooled, "features": features}
        losses = {"loss": total} | losses
        return {name: value * share for name, value in losses.items()}

    def _opinion(
        self, batch: VocoderBatch, ours: Spectra, theirs: Spectra
    ) -> tuple[Tensor, Tensor]:
        hop, start = self.model.mel.hop_length, self._piece(batch)
        (discriminators,) = self._discriminators
        scores, features = discriminators(self._judged(ours, hop, start))
        with torch.no_grad():
            _, recorded = discriminators(self._judged(theirs, hop, start))
        return adversarial(scores).mean(), feature_matching(recorded, features).mean()


class DiscriminatorObjective(_Objective):
    """Recorded and generated speech told apart."""

    def __init__(
        self, discriminators: Discriminators, model: Vocoder, config: VocoderTrainingConfig,
        distance: SpectralDistance,
    ):  # fmt: skip
        super().__init__(config, distance)
        self.discriminators = discriminators
        self._model = [model]

    def forward(self, batch: VocoderBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's loss."""
        (model,) = self._model
        share = batch.mel_BTM.shape[0] * batch.mel_BTM.shape[1] / batch.size
        with torch.no_grad():
            with autocast(batch.mel_BTM.device, self.config.amp):
                own = model.find_pitch(batch.mel_BTM)
            wave_BS = made(model, self.config, batch, own, moment, True)
            hop, start = model.mel.hop_length, self._piece(batch)
            judged = [
                self._judged(self.distance.spectra(wave, self.windows), hop, start)
                for wave in (batch.wave_BS, wave_BS)
            ]
        with autocast(batch.mel_BTM.device, self.config.amp):
            (recorded, _), (generated, _) = (self.discriminators(spectra) for spectra in judged)
            loss = hinge(recorded, generated).mean()
        return {"discriminator": loss * share}


def made(
    model: Vocoder, config: VocoderTrainingConfig, batch: VocoderBatch, own: Pitch,
    moment: Moment, training: bool,
) -> Tensor:  # fmt: skip
    """The wave of a batch, [B, S].

    In training some crops follow the tracker's F0, which the pitch net's is not quite, each from a
    phase of its own; the noise is drawn anew. Validation hears what speech will be like.
    """
    with autocast(batch.mel_BTM.device, config.amp):
        if not training:
            return model(batch.mel_BTM, own)
        own_share = config.own_pitch_share if moment.step >= config.own_pitch_from else 0.0
        n, device = len(batch.mel_BTM), batch.mel_BTM.device
        follows_B1 = torch.rand(n, 1, device=device) < own_share
        pitch = Pitch(
            torch.where(follows_B1, own.f0_BT, batch.f0_BT),
            torch.where(follows_B1, own.voiced_BT, batch.voiced_BT),
        )
        cycles_BT = cycles_at_frames(pitch, model.mel.hop_length, model.mel.sample_rate)[:, :-1]
        cycles_BT = cycles_BT + torch.rand(n, 1, device=device)
        frames = 2 * batch.mel_BTM.shape[1]
        noise = torch.randn(n, frames, 2, model.generator.n_bins, device=device)
        shown_BTM = model.normalise(batch.mel_BTM)
        return model.generator(batch.mel_BTM, shown_BTM, pitch, cycles_BT, noise)
