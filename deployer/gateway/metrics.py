"""What is measured: metrics for Prometheus, and the last ten minutes for the status page."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from .gpus import GPU_GAUGES, GPU_LABELS

STEP_S, STEPS = 5, 120
# The same bounds as vLLM's metrics of the same names (vllm/v1/metrics/loggers.py), so that dashboards carry over.
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)


@dataclass
class Request:
    """One request from its arrival to its end; times in seconds of the monotonic clock.

    `probe`: `deployer watch` asks whether an engine gives tokens; that is nobody's request, and is not counted.
    """

    id: str
    path: str
    came: float = field(default_factory=time.monotonic)
    key: str = ""
    model: str = ""
    replica: str = ""
    status: int = 0
    queued: float = 0.0
    first: float | None = None
    last: float | None = None
    events: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cause: str | None = None
    prompt: Any = None
    remote: str | None = None
    probe: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the engine counts them, else the events of the stream."""
        return self.events if self.completion_tokens is None else self.completion_tokens

    @property
    def each(self) -> float | None:
        """Seconds for each token after the first."""
        if self.first is None or self.last is None or self.tokens < 2 or self.last <= self.first:
            return None
        return (self.last - self.first) / (self.tokens - 1)


class Metrics:
    """Counts requests; the names follow vLLM's and the OpenMetrics rules."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one series more for each, which nobody asks for
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        by = ("model_name",)

        def made(kind: Any, name: str, about: str, labels: tuple[str, ...] = by, **more: Any) -> Any:
            return kind(f"deployer_{name}", about, labels, registry=self.registry, **more)

        self._first = made(
            Histogram, "time_to_first_token_seconds", "From the request to the first token.", buckets=_FIRST
        )
        self._each = made(
            Histogram, "time_per_output_token_seconds", "For each token after the first.", buckets=_EACH
        )
        self._whole = made(
            Histogram, "e2e_request_latency_seconds", "From the request to its end.", buckets=_WHOLE
        )
        self._queued = made(Histogram, "request_queue_time_seconds", "Waiting for a slot.", buckets=_WHOLE)
        self._prompt = made(Counter, "prompt_tokens", "Tokens of prompts.")
        self._generation = made(Counter, "generation_tokens", "Tokens of answers.")
        self._requests = made(Counter, "requests", "Requests by how they ended.", (*by, "path", "code"))
        self._errors = made(Counter, "request_errors", "Requests without a whole answer, by cause.", (*by, "cause"))
        self._running = made(Gauge, "num_requests_running", "Requests on an engine now.", (*by, "replica"))
        self._waiting = made(Gauge, "num_requests_waiting", "Requests that wait for a slot now.", ())
        self._up = made(Gauge, "replica_up", "Whether an engine answers.", (*by, "replica"))
        gpu = {name: Gauge(name, about, GPU_LABELS, registry=self.registry) for name, about, _ in GPU_GAUGES}
        self._gpus = gpu  # no `deployer_` before them: dashboards for NVIDIA's exporter know them so
        self._remote = made(Counter, "remote_requests", "Requests that were passed elsewhere.", (*by, "reason"))
        self.requests = self.errors = self.prompt_tokens = self.completion_tokens = 0
        self._series: deque[tuple[float, float | None, int, int]] = deque(maxlen=STEPS)
        self._firsts: list[float] = []
        self._told = 0
        self._live = 0

    def streamed(self, events: int) -> None:
        """Events that have come of answers which may go on: what the plot of the rate shows."""
        self._live += events

    def ended(self, one: Request) -> None:
        model = one.model or "none"
        self._requests.labels(model, one.path, str(one.status)).inc()
        self.requests += 1
        if one.cause:
            self.errors += 1
            self._errors.labels(model, one.cause).inc()
        if not one.model:
            return
        if one.remote:
            self._remote.labels(model, one.remote).inc()
        now = time.monotonic()
        self._whole.labels(model).observe(now - one.came)
        self._queued.labels(model).observe(one.queued)
        if one.first is not None:
            self._first.labels(model).observe(one.first - one.came)
            self._firsts.append(one.first - one.came)
        if (each := one.each) is not None:
            self._each.labels(model).observe(each)
        self._prompt.labels(model).inc(one.prompt_tokens or 0)
        self._generation.labels(model).inc(one.tokens)
        self.prompt_tokens += one.prompt_tokens or 0
        self.completion_tokens += one.tokens
        self._live += max(0, one.tokens - one.events)

    def sample(self, running: int, waiting: int) -> None:
        """One step of the last ten minutes; called every STEP_S seconds."""
        first = statistics.median(self._firsts) if self._firsts else None
        self._series.append((self._live / STEP_S, first, running, waiting))
        self._firsts, self._live = [], 0

    def series(self) -> dict[str, Any]:
        missing = [None] * (STEPS - len(self._series))
        columns = list(zip(*self._series, strict=True)) or [()] * 4
        names = ("tokens_per_s", "first_token_s", "running", "waiting")
        found = {name: [*missing, *column] for name, column in zip(names, columns, strict=True)}
        return {"step_s": STEP_S, "end": time.time(), **found}

    def text(
        self,
        running: dict[tuple[str, str], int],
        up: dict[tuple[str, str], bool],
        waiting: int,
        gpus: list[dict[str, Any]],
    ) -> bytes:
        """Everything in Prometheus' text format."""
        for name, _, read in GPU_GAUGES:
            self._gpus[name].clear()
            for one in gpus:
                if (measured := read(one)) is not None:
                    self._gpus[name].labels(str(one["index"]), one["uuid"], one["name"]).set(measured)
        for gauge, values in ((self._running, running), (self._up, up)):
            gauge.clear()
            for labels, value in values.items():
                gauge.labels(*labels).set(value)
        self._waiting.set(waiting)
        return generate_latest(self.registry)
