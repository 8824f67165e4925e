"""What MLflow runs when it loads a logged voice: this file is stored inside the model."""

from __future__ import annotations

import base64
import io

import mlflow
import pydantic
import soundfile
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Sentence(pydantic.BaseModel):
    """What is to be said; only the text has to be given.

    Attributes:
        text: of any length.
        language, voice: what is spoken, and who speaks; by default what was learned last.
        speed, pitch: multiples of what was learned; 1 by default.
    """

    text: str
    language: str | None = None
    voice: str | None = None
    speed: float | None = None
    pitch: float | None = None


class VoiceModel(PythonModel):
    """Sentences to speech, from the bundle that was logged with the model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle."""
        # Here, because this file is also run when the model is logged.
        from dimts.core.environment import choose_caches

        choose_caches()
        from dimts.families.registry import load_speaker, use_shipped_vocoder

        self._voice = load_speaker(context.artifacts["bundle"])
        use_shipped_vocoder(self._voice)

    def predict(self, model_input: list[Sentence]) -> list[str]:  # type: ignore[override]
        """Each sentence as a 16-bit WAV file in base64.

        Raises:
            MlflowException: one cannot be spoken; a server answers with 400.
        """
        from dimts.core.errors import UserError

        files = []
        for sentence in model_input:
            try:
                wave = self._voice.speak(**sentence.model_dump(exclude_none=True))
            except UserError as error:
                raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
            file = io.BytesIO()
            soundfile.write(file, wave, self._voice.sample_rate, format="WAV", subtype="PCM_16")
            files.append(base64.b64encode(file.getvalue()).decode())
        return files


mlflow.models.set_model(VoiceModel())
