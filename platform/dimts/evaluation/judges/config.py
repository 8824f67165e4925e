"""What a person writes about judges: the section ``judges`` of a voice's YAML."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.core.config import Config

NAMES = ("recognition", "naturalness", "dnsmos", "speaker", "pitch", "distortion")


class JudgesConfig(Config):
    """Who judges a voice, and on how much.

    Attributes:
        names: of the judges; none: nobody listens.
        sentences: of the test split that are judged; 0: all.
        recogniser: a folder or a name of a Whisper for CTranslate2; empty: Whisper base, as it is
            installed. A name is fetched where it is not on the machine.
        recogniser_languages: codes of what that recogniser knows; empty: those in which small
            Whispers are of use.
    """

    names: tuple[str, ...] = ()
    sentences: int = Field(default=20, ge=0)
    recogniser: str = ""
    recogniser_languages: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.names:
            if name not in NAMES:
                raise ValueError(f"no judge {name!r}; there are {', '.join(NAMES)}")
        if self.recogniser_languages and not self.recogniser:
            raise ValueError("recogniser_languages has no effect without recogniser")
        return self
