"""Prometheus metrics on a registry of their own.

Labels are bounded by the configuration and the API: methods, reasons, tokens, schemes. Never a
principal or anything else a stranger can invent. Keys and roles are labels only of what is due
first, and of a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from keyd.model import TokenState, TokenStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content-Type of :meth:`Metrics.page`."""

# From a SoftHSM signature (0.1 ms) to a caller's default deadline (60 s).
_SECONDS = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is read at the moment of a scrape.

    ``health``: 2 serving, 1 degraded, 0 not signing. ``last_entry_s`` and ``checkpoint_s``: Unix
    times of the newest entry and checkpoint, 0 while there is none. ``due``: keys and the seconds
    until their rotation is due, the soonest ones, negative when overdue; ``overdue``: how many.
    ``expiring``: repositories, roles and the seconds until what they signed expires, soonest
    first; ``expired``: how many have.
    """

    health: int
    log_size: int
    uncheckpointed: int
    keys: int
    unbound_keys: int
    freezes: int
    last_entry_s: float = 0.0
    checkpoint_s: float = 0.0
    due: Sequence[tuple[str, float]] = ()
    overdue: int = 0
    expiring: Sequence[tuple[str, str, float]] = ()
    expired: int = 0


class Metrics:
    """Counters and histograms of one daemon."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        r = self._registry
        self._requests = Counter(
            "keyd_requests", "Calls by outcome.", ["method", "outcome"], registry=r
        )
        self._seconds = Histogram(
            "keyd_request_seconds",
            "Time from a call's arrival to its outcome.",
            ["method"],
            registry=r,
            buckets=_SECONDS,
        )
        self._abandoned = Counter(
            "keyd_abandoned", "Calls whose caller left before the answer.", ["method"], registry=r
        )
        self._signatures = Counter(
            "keyd_signatures", "Signatures asked for.", ["scheme", "outcome"], registry=r
        )
        self._queue = Histogram(
            "keyd_token_queue_seconds",
            "Time a frame of jobs waited for its token host.",
            ["token"],
            registry=r,
            buckets=_SECONDS,
        )
        self._token = Histogram(
            "keyd_token_seconds",
            "Time a token host took for a frame of jobs.",
            ["token"],
            registry=r,
            buckets=_SECONDS,
        )
        self._jobs = Counter("keyd_token_jobs", "Jobs done by a token.", ["token"], registry=r)
        self._restarts = Counter(
            "keyd_token_host_restarts", "Token hosts that were replaced.", ["token"], registry=r
        )
        self._strangers = Counter(
            "keyd_unauthenticated", "Calls of nobody in particular.", ["reason"], registry=r
        )
        self._collapsed = Counter(
            "keyd_refusals_collapsed", "Refusals counted in another's entry.", registry=r
        )
        self._dropped = Counter(
            "keyd_refusals_dropped", "Refusals not logged, the disk being nearly full.", registry=r
        )

    def request(self, method: str, outcome: str, seconds: float) -> None:
        """One call ended. ``outcome``: OK or a KeydError's reason."""
        self._requests.labels(method, outcome).inc()
        self._seconds.labels(method).observe(seconds)

    def abandoned(self, method: str) -> None:
        """A caller left, or its deadline passed, before its answer."""
        self._abandoned.labels(method).inc()

    def signature(self, scheme: str, outcome: str, count: int = 1) -> None:
        """``count`` signatures were asked for. ``outcome``: signed, replayed, dry-run or a reason;
        ``scheme`` empty when it was refused."""
        self._signatures.labels(scheme, outcome).inc(count)

    def token_frame(self, token: str, jobs: int, queue_s: float, token_s: float) -> None:
        """A token host answered one frame of jobs."""
        self._queue.labels(token).observe(queue_s)
        self._token.labels(token).observe(token_s)
        self._jobs.labels(token).inc(jobs)

    def host_restarted(self, token: str) -> None:
        """A token host died, or was killed for its silence, and is replaced."""
        self._restarts.labels(token).inc()

    def unauthenticated(self, reason: str) -> None:
        """Somebody without a principal knocked; only counted, never logged as an entry."""
        self._strangers.labels(reason).inc()

    def refusals_collapsed(self, count: int = 1) -> None:
        """Refusals that became part of a counted entry."""
        self._collapsed.inc(count)

    def refusals_dropped(self, count: int = 1) -> None:
        """Refusals that were not written because the disk is nearly full."""
        self._dropped.inc(count)

    def watch(
        self, gauges: Callable[[], Gauges], tokens: Callable[[], Sequence[TokenStatus]]
    ) -> None:
        """Read these at every scrape; neither may block."""
        self._registry.register(_Watched(gauges, tokens))

    def page(self) -> bytes:
        """The exposition text of all metrics (Prometheus text format 0.0.4)."""
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(
        self, gauges: Callable[[], Gauges], tokens: Callable[[], Sequence[TokenStatus]]
    ) -> None:
        self._gauges = gauges
        self._tokens = tokens

    def describe(self) -> Iterable[Metric]:
        # Without this the registry would scrape while the daemon is still being put together.
        return []

    def collect(self) -> Iterable[Metric]:
        now = self._gauges()
        for name, text, value in (
            ("keyd_health", "2 serving, 1 degraded, 0 not signing.", now.health),
            ("keyd_log_size", "Entries in the audit log.", now.log_size),
            ("keyd_log_uncheckpointed", "Entries no checkpoint covers.", now.uncheckpointed),
            ("keyd_log_last_entry_seconds", "Unix time of the newest entry.", now.last_entry_s),
            ("keyd_log_checkpoint_seconds", "Unix time of the checkpoint.", now.checkpoint_s),
            ("keyd_keys", "Registered keys.", now.keys),
            ("keyd_keys_unbound", "Keys that sign anything.", now.unbound_keys),
            ("keyd_freezes", "Standing freezes.", now.freezes),
            ("keyd_keys_overdue", "Keys whose rotation is overdue.", now.overdue),
            ("keyd_roles_expired", "Roles whose signed metadata has expired.", now.expired),
        ):
            yield GaugeMetricFamily(name, text, value)
        yield from _ahead(now)
        states = GaugeMetricFamily(
            "keyd_token_state", "1 for the state a token is in.", labels=["token", "state"]
        )
        hosts = GaugeMetricFamily("keyd_token_hosts", "Logged-in hosts.", labels=["token"])
        queued = GaugeMetricFamily("keyd_token_queued", "Waiting signatures.", labels=["token"])
        for token in self._tokens():
            for state in TokenState:
                states.add_metric([token.name, state.value], float(state is token.state))
            hosts.add_metric([token.name], token.hosts)
            queued.add_metric([token.name], token.queued)
        yield from (states, hosts, queued)


def _ahead(now: Gauges) -> Iterable[Metric]:
    """What comes due: nothing is told of what nobody has to wait for."""
    due = GaugeMetricFamily(
        "keyd_key_rotation_due_in_seconds",
        "Time until a key's rotation is due, of the soonest; negative when overdue.",
        labels=["key"],
    )
    for key, seconds in now.due:
        due.add_metric([key], seconds)
    roles = GaugeMetricFamily(
        "keyd_role_expires_in_seconds",
        "Time until what was signed for a role expires, of the soonest; negative when expired.",
        labels=["repository", "role"],
    )
    for repository, role, seconds in now.expiring:
        roles.add_metric([repository, role], seconds)
    soonest = GaugeMetricFamily(
        "keyd_soonest_expiry_in_seconds", "The smallest of all keyd_role_expires_in_seconds."
    )
    if now.expiring:
        soonest.add_metric([], now.expiring[0][2])
    yield from (due, roles, soonest)
