"""The flat start's durations: made once for a corpus, kept beside its features, read by workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.families.acoustic.alignment.em import ALIGNER_VERSION, align_corpus
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.settings import AcousticSettings
from dimts.features.manifest import AGAIN
from dimts.storage.files import copy_to, local_copy, write_atomic
from dimts.storage.paths import AnyPath


def ensure_durations(settings: AcousticSettings, data: Data) -> None:
    """Align the training split, on all cores, unless it has been aligned before.

    To be called by one process, before those that read are started.

    Raises:
        UserError: an utterance has fewer frames than its text has states, or there is no
            writing beside the features.
    """
    file, place = _where(settings, data)
    if not (file.exists() or local_copy(place, file).exists()):
        _write_durations(file, _align(settings, data))
        copy_to(file, place)  # other machines have them from there


def read_durations(settings: AcousticSettings, data: Data) -> list[NDArray[np.int32]]:
    """Frames of each token state of the training split, int32 [N, n_states] each.

    Raises:
        UserError: they have not been made, or do not fit.
    """
    file, place = _where(settings, data)
    if not (file.exists() or local_copy(place, file).exists()):
        raise UserError(f"{place}: the training split is not aligned; {AGAIN}")
    try:
        stored = load_file(file)
        durations = [stored[str(i)] for i in range(len(data.train))]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it") from error
    for i, of_tokens in enumerate(durations):
        frames = int(data.train.utterances.n_frames[i])
        if len(of_tokens) != data.train.n_tokens[i] or of_tokens.sum() != frames:
            raise UserError(f"{file}: does not fit {data.train.utterances.ids[i]}; remove it")
    return durations


def _where(settings: AcousticSettings, data: Data) -> tuple[Path, AnyPath]:
    """The file on this machine and where it is kept, named after all that durations depend on."""
    aligner = settings.training.aligner
    key = fingerprint(
        ALIGNER_VERSION,
        [features.manifest.fingerprint for features in data.features],
        data.tokenizer.fingerprint,
        settings.model.states_per_token,
        aligner.iterations,
        aligner.prior_frames,
        list(data.train.utterances.ids) if settings.training.max_utterances else [],
        # Without a base they follow from the features.
        *((data.mel_mean_M.tolist(), data.mel_std_M.tolist()) if data.base else ()),
    )
    name = Path("alignments", f"{key}.safetensors")
    return data.features[0].folder / name, settings.sources[0].features / name


def _align(settings: AcousticSettings, data: Data) -> list[NDArray[np.int32]]:
    aligner, train = settings.training.aligner, data.train

    def mel_of(n: int) -> NDArray[np.float32]:
        return (train.utterances.mel(n) - data.mel_mean_M) / data.mel_std_M

    try:
        return align_corpus(
            train.tokens,
            mel_of,
            data.tokenizer.factors,
            settings.model.states_per_token,
            aligner.iterations,
            aligner.prior_frames,
            threads=n_cores(),
            pause_ids=data.tokenizer.pause_ids,
        )
    except ValueError as error:
        folders = ", ".join(str(source.features) for source in settings.sources)
        raise UserError(
            f"{folders}: {error}; lower model.states_per_token, or raise "
            f"prepare.min_frames_per_token and run dimts prepare again"
        ) from error


def _write_durations(file: Path, durations: Sequence[NDArray[np.int32]]) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
        # Not by save_file, which lets nobody but the writer read the file.
        write_atomic(file, save({str(i): array for i, array in enumerate(durations)}))
    except PermissionError as error:
        raise UserError(
            f"{file.parent}: cannot be written ({error.strerror}), and training keeps the "
            "durations of the features there; copy them to a folder of yours and name that by "
            "prepare.features"
        ) from error
