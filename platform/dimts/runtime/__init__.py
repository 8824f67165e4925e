"""An exported voice speaks with onnxruntime and numpy alone.

``Voice("folder").speak("...")`` gives samples. `dimts export` puts this package beside the voice,
under the name ``dimts_runtime``.
"""

from dimts.runtime.voice import Voice

__all__ = ["Voice"]
