"""What Prometheus is told of the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class Metrics:
    """Counters and times of one process; `text` is what Prometheus reads.

    Attributes:
        answered: requests for speech, by HTTP status; those whose client went away count as 499.
        spoken: seconds of speech that were sent.
        first_sound, whole: seconds from a request to its first and last byte.
        in_progress: requests for speech that are not answered yet.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.answered = Counter(
            "dimts_speech_requests", "Requests for speech", ["status"], registry=registry
        )
        self.spoken = Counter("dimts_speech_seconds", "Seconds of speech sent", registry=registry)
        self.first_sound = Histogram(
            "dimts_first_sound_seconds", "From a request to its first byte of sound",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.whole = Histogram(
            "dimts_request_seconds", "From a request to its last byte", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.in_progress = Gauge(
            "dimts_requests_in_progress", "Requests for speech in progress", registry=registry
        )

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self._registry)
