"""What a server counts, for Prometheus and for its own page.

Knows the worker and the cache. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from ondevice.runtime.budget import resident_bytes
from ondevice.runtime.server.worker import Worker

_WHAT = {
    "running": "Texts that are being written.",
    "waiting": "Texts that wait for a slot.",
    "tokens_written_total": "Tokens written since the start.",
    "tokens_reused_total": "Tokens of prompts that need not be read again, since the start.",
    "cache_bytes": "Bytes of the key-value cache in use, what is kept for later included.",
    "cache_bytes_kept": "Bytes of the cache that hold texts that have ended, until somebody needs the room.",
    "cache_bytes_limit": "Bytes of the key-value cache.",
    "resident_bytes": "Memory of the process.",
}


class Metrics:
    """worker: of a language model; None where there is none."""

    def __init__(self, worker: Worker | None) -> None:
        self._worker, self._registry = worker, CollectorRegistry()
        self.requests = Counter(
            "ondevice_requests",
            "Requests by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self.first = Histogram(
            "ondevice_first_token_seconds", "From request to first token.", registry=self._registry
        )
        self.whole = Histogram(
            "ondevice_answer_seconds", "From request to last token.", registry=self._registry
        )
        self._registry.register(_Gauges(self.now))  # type: ignore[arg-type]

    def now(self) -> dict[str, int]:
        """The gauges, read now."""
        if self._worker is None:
            return {"resident_bytes": resident_bytes()}
        return self._worker.gauges() | {"resident_bytes": resident_bytes()}

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges:
    def __init__(self, now: Callable[[], dict[str, int]]) -> None:
        self._now = now

    def collect(self) -> Any:
        for name, value in self._now().items():
            yield GaugeMetricFamily(f"ondevice_{name}", _WHAT[name], value=value)
