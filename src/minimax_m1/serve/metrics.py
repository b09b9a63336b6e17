"""`Metrics`: what `GET /metrics` tells, in Prometheus' text form, under vLLM's names with a prefix of our own.

In: what becomes of requests, as the registry's observer, the status of each HTTP answer, and where tokens were routed.
What the engine knows is asked of it when somebody scrapes. Out: bytes. Counting is adding plain numbers on the event
loop; a sample is made of them only for a scrape, so that 80 layers of 32 experts cost a request nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from minimax_m1.engine.holdings import Holder
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.serve.bridge import Bridge, Status
from minimax_m1.serve.registry import Entry

_KIND = "text/plain; version=0.0.4; charset=utf-8"  # of Prometheus' text form, which every version of it reads
_PREFIX = "minimax_m1_"
# The bounds are vLLM's, so that a dashboard made for it shows the same buckets.
_FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_NEXT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKENS = tuple(each * 10**power for power in range(7) for each in (1, 2, 5))

_Labels = Mapping[tuple[str, ...], float] | Mapping[tuple[str], float] | Mapping[tuple[str, str], float]


class Metrics(Collector):
    """Counts for one server; implements the registry's `Observer`.

    `name` is what clients call the model, the label `model_name` of every sample. What the engine behind `bridge`
    holds is left out while there is none. Everything but `render` is called on the event loop.
    """

    def __init__(self, name: str, bridge: Bridge) -> None:
        self._name = name
        self._bridge = bridge
        self._began: Counter[tuple[str]] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._answered: Counter[tuple[str]] = Counter()
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._reasoning_tokens = 0
        self._first = _Histogram(_FIRST)
        self._next = _Histogram(_NEXT)
        self._whole = _Histogram(_WHOLE)
        self._asked = _Histogram(_TOKENS)
        self._told = _Histogram(_TOKENS)
        self._load: _Load | None = None

    def began(self, entry: Entry) -> None:
        """The engine took a request."""
        self._began[entry.kind,] += 1

    def token(self, entry: Entry, since: float | None) -> None:
        """One more token, so many seconds `since` the one before; None: it is the first."""
        self._generation_tokens += 1
        if since is None:
            self._prompt_tokens += entry.prompt_tokens
            self._first.observe(time.monotonic() - entry.began)
        else:
            self._next.observe(since)

    def ended(self, entry: Entry) -> None:
        """A request is over. One that was cut short counts, but its time and length would tell nothing."""
        self._ended[entry.finish, entry.kind] += 1
        self._reasoning_tokens += entry.reasoning_tokens
        if entry.first_token is None:  # its prompt is not counted yet
            self._prompt_tokens += entry.processed
        if entry.finish != "abort":
            self._whole.observe(time.monotonic() - entry.began)
            self._asked.observe(entry.prompt_tokens)
            self._told.observe(entry.output_tokens)

    def routed(self, trace: RoutingTrace) -> None:
        """Where the tokens of one answer went."""
        counts, tokens, entropy = trace.sums()
        if self._load is None:
            self._load = _Load(counts.copy(), tokens.copy(), entropy.copy())
        else:
            self._load.add(counts, tokens, entropy)

    def responded(self, status: int) -> None:
        """An HTTP request was answered."""
        self._answered[str(status),] += 1

    def render(self) -> tuple[bytes, str]:
        """All of it, and its media type; takes milliseconds, so call it off the event loop."""
        return generate_latest(self), _KIND

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples."""
        yield from self._of_engine()
        yield self._counter("requests", "Requests that the engine took.", self._began, ("kind",))
        yield self._counter(
            "request_success", "Requests that are over, by how they ended.", self._ended, ("finished_reason", "kind")
        )
        yield self._counter("http_requests", "HTTP requests that were answered.", self._answered, ("status",))
        yield self._counter("prompt_tokens", "Tokens of prompts, cached ones included.", self._prompt_tokens)
        yield self._counter("generation_tokens", "Tokens of replies.", self._generation_tokens)
        yield self._counter("reasoning_tokens", "Those of them that were thoughts.", self._reasoning_tokens)
        yield self._histogram("time_to_first_token_seconds", "From asked to the first token.", self._first)
        yield self._histogram("inter_token_latency_seconds", "From one token of a reply to the next.", self._next)
        yield self._histogram("e2e_request_latency_seconds", "From asked to the last token.", self._whole)
        yield self._histogram("request_prompt_tokens", "Tokens of a prompt.", self._asked)
        yield self._histogram("request_generation_tokens", "Tokens of all answers to it.", self._told)
        if self._load is not None:
            yield from self._of_router(self._load)

    def _of_engine(self) -> Iterator[Metric]:
        engine: object = self._bridge.loaded.engine if self._bridge.status is Status.READY else None
        if not isinstance(engine, Holder):
            return
        held, counts = engine.holdings, engine.counts
        yield self._gauge("num_requests_running", "Requests that hold a state.", held.running)
        yield self._gauge("num_requests_waiting", "Requests that wait for one.", held.waiting)
        yield self._gauge(
            "kv_cache_usage_perc",
            "Share of the pages for keys and values that requests hold; 1 is all.",
            1 - held.pages_available / held.pages,
        )
        yield self._gauge("checkpoints", "States kept of what was read.", held.checkpoints)
        yield self._gauge("checkpoint_bytes", "Their bytes.", held.checkpoint_bytes)
        yield self._counter("num_preemptions", "Requests parked to make room.", counts.preemptions)
        yield self._counter("prefix_cache_queries", "Tokens that the prefix cache was asked for.", counts.queried)
        yield self._counter("prefix_cache_hits", "Tokens that it gave.", counts.cached)
        yield self._counter("snapshot_hits", "Requests that began behind a kept state.", counts.hits)
        yield self._counter("snapshot_misses", "Requests for which there was none.", counts.misses)
        yield self._counter(
            "replayed_tokens", "Tokens read before and read again, since no state was kept near.", counts.replayed
        )
        yield self._counter("context_loads", "Contexts taken up from disk.", counts.loads)
        yield self._counter("context_load_tokens", "Their tokens.", counts.loaded)
        yield self._counter("context_load_seconds", "Seconds that this took.", counts.load_seconds)

    def _of_router(self, load: _Load) -> Iterator[Metric]:
        sent = {
            (str(layer), str(expert)): count
            for layer, row in enumerate(load.counts.tolist())
            for expert, count in enumerate(row)
        }
        yield self._counter("expert_tokens", "Tokens sent to an expert.", sent, ("layer", "expert"))
        means = (np.maximum(load.entropy, 0.0) / np.maximum(load.tokens, 1)).tolist()
        yield self._gauge(
            "router_entropy",
            "Mean entropy of a token's gate weights, in nats.",
            {(str(layer),): mean for layer, mean in enumerate(means)},
            ("layer",),
        )

    def _counter(self, name: str, says: str, values: float | _Labels, labels: Sequence[str] = ()) -> Metric:
        return self._filled(CounterMetricFamily(_PREFIX + name, says, labels=("model_name", *labels)), values)

    def _gauge(self, name: str, says: str, values: float | _Labels, labels: Sequence[str] = ()) -> Metric:
        return self._filled(GaugeMetricFamily(_PREFIX + name, says, labels=("model_name", *labels)), values)

    def _filled(self, family: CounterMetricFamily | GaugeMetricFamily, values: float | _Labels) -> Metric:
        if isinstance(values, int | float):
            family.add_metric((self._name,), values)
        else:
            for labels, value in list(values.items()):  # a copy: the event loop may count meanwhile
                family.add_metric((self._name, *labels), value)
        return family

    def _histogram(self, name: str, says: str, histogram: _Histogram) -> Metric:
        family = HistogramMetricFamily(_PREFIX + name, says, labels=("model_name",))
        family.add_metric((self._name,), histogram.buckets(), histogram.sum)
        return family


@dataclass(frozen=True, slots=True)
class _Load:
    """Sums over traces: tokens sent to each expert [layers, experts], tokens that each layer ran and the sum of their
    entropies in nats [layers].
    """

    counts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    entropy: NDArray[np.float64]

    def add(self, counts: NDArray[np.int64], tokens: NDArray[np.int64], entropy: NDArray[np.float64]) -> None:
        self.counts[:] += counts
        self.tokens[:] += tokens
        self.entropy[:] += entropy


class _Histogram:
    """How many numbers lie between which bounds; a number belongs to the first bound that is not less."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.sum = 0.0
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(bound, how many are not above it), the last bound without end."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))
