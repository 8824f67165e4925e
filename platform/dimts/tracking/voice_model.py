"""What MLflow runs when it loads a logged voice: this file is stored inside the model."""

from __future__ import annotations

import base64
import io

import mlflow
import soundfile
from mlflow.pyfunc.model import PythonModel, PythonModelContext


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

    def predict(self, model_input: list[str]) -> list[str]:  # type: ignore[override]
        """Each sentence as a 16-bit WAV file in base64."""
        files = []
        for sentence in model_input:
            file, wave = io.BytesIO(), self._voice.speak(sentence)
            soundfile.write(file, wave, self._voice.sample_rate, format="WAV", subtype="PCM_16")
            files.append(base64.b64encode(file.getvalue()).decode())
        return files


mlflow.models.set_model(VoiceModel())
