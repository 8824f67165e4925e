"""Text to speech from a bundle alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.postfilter import postfilter
from dimts.families.protocol import Vocoder
from dimts.text.pieces import pieces
from dimts.text.tokenizer import Tokenizer

MIN_SPEED, MAX_SPEED = 0.25, 4.0
MIN_PITCH, MAX_PITCH = 0.25, 4.0
MAX_TOKENS = 8000
"""Of a text that is spoken at once: time and memory grow with their square."""


class SpokenMel(NamedTuple):
    """What a text is spoken by.

    Attributes:
        mel_TM: natural-log.
        durations_NS: int64, frames of each token's states.
        f0_T: Hz, 0 where unvoiced; None if the model predicts none.
    """

    mel_TM: NDArray[np.float32]
    durations_NS: NDArray[np.int64]
    f0_T: NDArray[np.float32] | None


class AcousticSpeaker:
    """A voice that speaks; see `dimts.families.protocol.Speaker`.

    The model is in eval mode. `language` is the code of what is spoken where none is named; None:
    the tokenizer's default. `table` has the names of the model's speakers, by row; `voices` the
    same, first the one who speaks where none is named: `voice`, or the table's first. `vocoder`
    makes samples of a mel: Griffin-Lim, or a trained one.
    """

    def __init__(
        self,
        model: T3,
        tokenizer: Tokenizer,
        mel: MelConfig,
        language: str | None = None,
        table: Sequence[str] = (),
        voice: str | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.mel_config = mel
        self.language = language
        self._table = list(table)
        self.voices = sorted(table, key=lambda name: name != voice)
        self.vocoder: Vocoder | None = None

    @classmethod
    def load(cls, bundle: str | Path, device: str = "cpu") -> Self:
        """The voice of a bundle folder.

        Raises:
            BundleError: the folder is no bundle, is damaged, or does not fit together.
        """
        loaded = load_bundle(bundle, device)
        # A base may be adapted to a language or a speaker that it knows, who is not its last.
        learned = loaded.manifest.origin
        return cls(
            loaded.model, loaded.tokenizer, loaded.mel, learned.get("language"), loaded.speakers,
            learned.get("speaker"),
        )  # fmt: skip

    @property
    def sample_rate(self) -> int:
        return self.mel_config.sample_rate

    @property
    def languages(self) -> list[str]:
        return [known.language.code for known in self.tokenizer.spec.languages]

    @torch.no_grad()
    def mel(
        self, text: str, speed: float = 1.0, language: str | None = None, pitch: float = 1.0,
        voice: str | None = None,
    ) -> SpokenMel:  # fmt: skip
        """Natural-log mel of a raw text; speed and F0 are multiples of what was learned.

        Raises:
            UserError: the text is empty, too long to be spoken at once or has characters outside
                the vocabulary, speed or pitch are out of range, there is no such language or
                voice, or it learned nonsense.
        """
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise UserError(f"speed {speed:g}: must be between {MIN_SPEED} and {MAX_SPEED:g}")
        if pitch != 1 and self.model.source is None:
            raise UserError("pitch: the voice predicts none that could be changed; leave it out")
        if not MIN_PITCH <= pitch <= MAX_PITCH:
            raise UserError(f"pitch {pitch:g}: must be between {MIN_PITCH} and {MAX_PITCH:g}")
        device = self.model.mel_mean_M.device
        ids = self.tokenizer.encode(text, language or self.language)
        if len(ids) > MAX_TOKENS:
            raise UserError(
                f"{text!r:.60}: {len(ids)} tokens, at most {MAX_TOKENS} are spoken at once; split "
                "it into sentences"
            )
        tokens = torch.tensor([ids], device=device)
        count = torch.tensor([tokens.shape[1]], device=device)
        row = self._row(voice)
        speakers = None if row is None else torch.tensor([row], device=device)
        with one_thread():
            output = self.model(tokens, count, speed=speed, pitch_shift=pitch, speakers_B=speakers)
        mel_TM = finished_mel(self.model, output.mel_BTM)
        if not np.isfinite(mel_TM).all():
            raise UserError(f"{text!r:.60}: the voice has no mel for it: its weights are nonsense")
        f0_T = None if output.f0_BT is None else output.f0_BT[0].cpu().numpy()
        return SpokenMel(mel_TM, output.durations_BNS[0].cpu().numpy(), f0_T)

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Samples in [-1, 1] at `sample_rate`; raises like `mel`.

        A long text is spoken piece by piece, so that memory grows with its samples alone.
        """
        waves = []
        for spoken, silence in self._pieces(text, language, voice, speed, pitch, False):
            waves += [np.zeros(silence, np.float32), self.vocode(spoken.mel_TM, spoken.f0_T)]
        return np.concatenate(waves)

    def stream(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Iterator[NDArray[np.float32]]:  # fmt: skip
        """See `dimts.families.protocol.Streams`; raises like `mel`.

        A trained vocoder gives a sentence in chunks, the first of them soon.
        """
        soon = True
        for spoken, silence in self._pieces(text, language, voice, speed, pitch, True):
            for wave in self._chunks(spoken, soon):
                yield np.pad(wave, (silence, 0))
                silence = 0
            soon = False

    def _pieces(
        self, text: str, language: str | None, voice: str | None, speed: float, pitch: float,
        each_sentence: bool,
    ) -> Iterator[tuple[SpokenMel, int]]:  # fmt: skip
        """One piece after the other, with the samples of silence before it."""
        normaliser = self.tokenizer.normaliser(language or self.language)
        marks = "".join(filter(self.tokenizer.knows, normaliser.language.punctuation))
        normalised = normaliser.normalise(text)
        silence = 0
        for piece in pieces(normalised, marks, each_sentence=each_sentence):
            yield self.mel(piece.text, speed, language, pitch, voice), silence
            silence = round(piece.pause / speed * self.sample_rate)

    def _chunks(self, spoken: SpokenMel, soon: bool) -> Iterator[NDArray[np.float32]]:
        if self.vocoder is None:
            return iter([self.vocode(spoken.mel_TM, spoken.f0_T)])
        return self.vocoder.chunks(spoken.mel_TM, spoken.f0_T, soon)

    def _row(self, voice: str | None) -> int | None:
        """Of the table of speakers; None if there is none."""
        if not self.voices:
            if voice:
                raise UserError(f"voice {voice}: there is one only; leave it out")
            return None
        if voice is None:
            voice = self.voices[0]
        if voice not in self.voices:
            raise UserError(f"voice {voice}: there is none; there are {', '.join(self.voices)}")
        return self._table.index(voice)

    def vocode(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Natural-log mel, [T, M], and F0 of each frame in Hz, if it is known, to samples."""
        with one_thread():
            if self.vocoder is None:
                return griffin_lim(mel_TM, config=self.mel_config)
            return self.vocoder(mel_TM, f0_T)


def finished_mel(model: T3, mel_BTM: torch.Tensor) -> NDArray[np.float32]:
    """The first row of a model's output as it is vocoded: natural-log mel, postfiltered, [T, M]."""
    mel_TM: NDArray[np.float32] = model.denormalise(mel_BTM)[0].cpu().numpy()
    if model.postfilter_FM is None:
        return mel_TM
    return postfilter(mel_TM, model.postfilter_FM.cpu().numpy(), model.config.postfilter)
