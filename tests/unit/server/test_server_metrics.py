"""What a scrape shows."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from keyd.model import TokenState, TokenStatus
from keyd.server.metrics import Gauges, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_method_and_outcome() -> None:
    metrics = Metrics()
    metrics.request("SigningService/Sign", "OK", 0.003)
    metrics.request("SigningService/Sign", "OK", 0.003)
    metrics.request("SigningService/Sign", "POLICY_DENIED", 0.001)

    found = samples(metrics)

    method = ("method", "SigningService/Sign")
    assert found["keyd_requests_total", (method, ("outcome", "OK"))] == 2
    assert found["keyd_requests_total", (method, ("outcome", "POLICY_DENIED"))] == 1
    assert found["keyd_request_seconds_count", (method,)] == 3
    assert found["keyd_request_seconds_bucket", (("le", "0.002"), method)] == 1


def test_two_daemons_in_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics(), Metrics()
    one.unauthenticated("UNKNOWN_CALLER")

    assert ("keyd_unauthenticated_total", (("reason", "UNKNOWN_CALLER"),)) in samples(one)
    assert ("keyd_unauthenticated_total", (("reason", "UNKNOWN_CALLER"),)) not in samples(other)


def test_a_scrape_reads_log_and_tokens_as_they_are_then() -> None:
    log_size = 1
    metrics = Metrics()
    metrics.watch(
        lambda: Gauges(2, log_size=log_size, uncheckpointed=5, keys=3, unbound_keys=1, freezes=0),
        lambda: [TokenStatus("online", TokenState.LOCKED, hosts=0, queued=4)],
    )
    log_size = 7

    found = samples(metrics)

    assert found["keyd_log_size", ()] == 7
    assert found["keyd_log_uncheckpointed", ()] == 5
    assert found["keyd_token_state", (("state", "LOCKED"), ("token", "online"))] == 1
    assert found["keyd_token_state", (("state", "READY"), ("token", "online"))] == 0
    assert found["keyd_token_queued", (("token", "online"),)] == 4


def test_queue_and_token_time_are_apart() -> None:
    metrics = Metrics()
    metrics.token_frame("online", jobs=64, queue_s=0.004, token_s=0.02)

    found = samples(metrics)

    token = ("token", "online")
    assert found["keyd_token_queue_seconds_sum", (token,)] == 0.004
    assert found["keyd_token_seconds_sum", (token,)] == 0.02
    assert found["keyd_token_jobs_total", (token,)] == 64
