"""What a person writes about judges: the section ``judges`` of a voice's YAML."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.core.config import Config
from dimts.evaluation.judges.metrics import JUDGED, OF_JUDGE

NAMES = tuple(OF_JUDGE)
PRETRAINED = tuple(name for name in NAMES if name != "reading")


class JudgesConfig(Config):
    """Who judges a voice, on how much, and what follows.

    Attributes:
        names: of the judges; none: nobody listens.
        sentences: of a split that are judged; 0: all.
        decides: the metric that promotion compares, sentence by sentence; empty: the family's own.
        chooses: the metric by which the best checkpoint of a run is chosen, and by which a run with
            `training.patience` ends; empty: the validation loss. Judges then hear the validation
            split at each validation.
        not_worse: metric -> by how much a promoted voice may be worse in it than the champion, or,
            where there is none, than the recordings.
        recogniser: a folder or a name of a Whisper for CTranslate2; empty: Whisper base, as it is
            installed. A name is fetched where it is not on the machine.
        recogniser_languages: codes of what that recogniser knows; empty: those in which small
            Whispers are of use.
        reader: bundle or run of the family recogniser, which the judge ``reading`` needs.
    """

    names: tuple[str, ...] = ()
    sentences: int = Field(default=20, ge=0)
    decides: str = ""
    chooses: str = ""
    not_worse: dict[str, float] = Field(default_factory=dict)
    recogniser: str = ""
    recogniser_languages: tuple[str, ...] = ()
    reader: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.names:
            if name not in NAMES:
                raise ValueError(f"no judge {name!r}; there are {', '.join(NAMES)}")
        known = [m.name for name in self.names for m in OF_JUDGE[name]]
        judged = [m.name for m in JUDGED if m.name in known]
        for key, metrics in (
            ("decides", [self.decides]),
            ("chooses", [self.chooses]),
            ("not_worse", self.not_worse),
        ):
            for metric in filter(None, metrics):
                if metric not in judged:
                    raise ValueError(
                        f"{key}: none of the judges measures {metric!r}; "
                        f"those of judges.names measure {', '.join(judged) or 'nothing'}"
                    )
        if self.recogniser_languages and not self.recogniser:
            raise ValueError("recogniser_languages has no effect without recogniser")
        if ("reading" in self.names) != bool(self.reader):
            raise ValueError(
                "the judge reading needs reader, a bundle or run of the family recogniser"
                if not self.reader else "reader has no effect without the judge reading"
            )  # fmt: skip
        return self
