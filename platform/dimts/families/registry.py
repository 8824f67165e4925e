"""The model families that there are: the platform's own, and those of installed packages.

A package brings a family by an entry point of the group ``dimts.families``, such as
``toy = "my_package.toy:FAMILY"``.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dimts.audio.mel import MelConfig
from dimts.core.config import first_difference
from dimts.core.errors import ConfigError, UserError
from dimts.core.home import shipped
from dimts.families.protocol import Family, Speaker, SpeaksMels, Vocoder

GROUP = "dimts.families"
DEFAULT = "acoustic"
OWN = (
    EntryPoint(DEFAULT, "dimts.families.acoustic.family:FAMILY", GROUP),
    EntryPoint("chatterbox", "dimts.families.chatterbox.family:FAMILY", GROUP),
    EntryPoint("recogniser", "dimts.families.recogniser.family:FAMILY", GROUP),
    EntryPoint("vocoder", "dimts.families.vocoder.family:FAMILY", GROUP),
)
SHIPPED_VOCODER = "bases/vocoder"
GRIFFIN_LIM = "griffin-lim"
"""Named as a vocoder: none that is trained."""
ONNX = EntryPoint("onnx", "dimts.families.vocoder.external:OnnxVocoder", GROUP)

log = logging.getLogger(__name__)


@cache
def get_family(name: str) -> Family:
    """The family of a name; its code is loaded at the first call.

    Raises:
        ConfigError: there is none of that name; says which there are.
    """
    known = {point.name: point for point in (*entry_points(group=GROUP), *OWN)}
    if name not in known:
        raise ConfigError(f"family: {name} is unknown; there are {', '.join(sorted(known))}")
    family: Family = known[name].load()
    return family


def load_speaker(bundle: str | Path, device: str = "cpu") -> Speaker:
    """The speaker of a bundle, a run or a pointer, whatever its family.

    Raises:
        BundleError: the bundle is damaged, does not fit together, or is of an unknown family.
    """
    from dimts.bundles.bundle import BundleError, read_manifest, resolve_bundle

    folder = resolve_bundle(Path(bundle))
    name = read_manifest(folder, verify=False).family
    try:
        family = get_family(name)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}") from error
    return family.load(folder, device)


def load_vocoder(bundle: str | Path, mel: MelConfig, device: str = "cpu") -> Vocoder:
    """The vocoder of a bundle's folder, or of an ONNX file, for mels of a spec.

    Raises:
        BundleError: see `load_speaker`; or the bundle is of a family that is no vocoder.
        UserError: it takes other mels, or a package that it needs is not installed.
    """
    from dimts.bundles.bundle import BundleError

    if is_onnx(bundle):
        vocoder: Vocoder = ONNX.load()(Path(bundle), mel)
        return vocoder
    model = load_speaker(bundle, device)
    if not isinstance(model, Vocoder):
        raise BundleError(f"{bundle}: is no vocoder; name one, or griffin-lim")
    check_same_mel(str(bundle), model.mel, mel)
    return model


@cache
def shipped_vocoder(mel: MelConfig) -> Vocoder | None:
    """The vocoder that dimts brings along, for mels of a spec; None, after a line in the log, if it
    takes others or is not there, as on a cluster whose home has no `bases`."""
    folder = Path(shipped(SHIPPED_VOCODER))
    if not folder.is_dir():
        log.warning("%s is not there: Griffin-Lim makes the waves", SHIPPED_VOCODER)
        return None
    vocoder = load_speaker(folder)
    assert isinstance(vocoder, Vocoder)
    if vocoder.mel != mel:
        log.warning("%s takes another mel: Griffin-Lim makes the waves", SHIPPED_VOCODER)
        return None
    return vocoder


def use_shipped_vocoder(speaker: Speaker) -> None:
    """Let a speaker of mels make its waves by the vocoder that ships, see `shipped_vocoder`."""
    if isinstance(speaker, SpeaksMels):
        speaker.vocoder = shipped_vocoder(speaker.mel_config)


def is_onnx(vocoder: str | Path) -> bool:
    """Whether a file of others is meant, not a bundle."""
    return Path(vocoder).suffix == ".onnx"


def use_vocoder(speaker: Speaker, bundle: str | Path) -> None:
    """Let a speaker make its waves by the vocoder of a bundle's folder.

    Raises:
        BundleError, UserError: see `load_vocoder`; or the speaker makes no mels.
    """
    if not isinstance(speaker, SpeaksMels):
        raise UserError("this model makes its waves without a vocoder; leave the vocoder out")
    speaker.vocoder = load_vocoder(bundle, speaker.mel_config)


def check_same_mel(vocoder: str, takes: MelConfig, wanted: MelConfig) -> None:
    """Refuse a vocoder, or a voice, of other mels.

    Raises:
        UserError: names the first difference.
    """
    if found := first_difference(wanted.model_dump(), takes.model_dump()):
        key, value, theirs = found
        raise UserError(
            f"{vocoder}: was trained for mel.{key}={theirs}, {value} is asked for; take one that "
            "was trained for this mel"
        )
