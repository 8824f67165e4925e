"""dimts: teach a text-to-speech model a new language, on a laptop or a Ray cluster.

``dimts.load("runs/VOICE").speak("...")`` speaks; the command `dimts` prepares, trains and measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dimts.families.protocol import Speaker

__version__ = "0.2.0"


def load(
    voice: str | Path, *, vocoder: str | Path | None = None, tracking_uri: str | None = None
) -> Speaker:
    """Load a voice, which speaks.

    Args:
        voice: folder of a bundle or a run (its best one), in object storage as well, or a URI of
            MLflow such as ``models:/NAME@champion``.
        vocoder: likewise, or an ONNX file: what makes waves of the voice's mels. Without it the one
            that ships does, if it takes the voice's mel, else Griffin-Lim; ``griffin-lim`` asks for
            that.
        tracking_uri: MLflow's store, for such a URI; ``sqlite:///mlflow.db`` by default.

    Raises:
        UserError: there is no such voice or vocoder, one is damaged, or they do not fit together.
    """
    from dimts.core.environment import choose_caches

    choose_caches()  # before numba is imported
    from dimts.families import registry
    from dimts.tracking.config import tracking_at
    from dimts.tracking.mlflow_model import resolve_model

    tracking = tracking_at(tracking_uri)
    speaker = registry.load_speaker(resolve_model(voice, tracking))
    if vocoder is None:
        registry.use_shipped_vocoder(speaker)
    elif str(vocoder) != registry.GRIFFIN_LIM:
        place = vocoder if registry.is_onnx(vocoder) else resolve_model(vocoder, tracking)
        registry.use_vocoder(speaker, place)
    return speaker
