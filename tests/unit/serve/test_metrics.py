"""What callbacks count and how it is named."""

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from reconciler.model.plan import Action
from reconciler.model.record import Counts
from reconciler.sdk.budget import BudgetState
from reconciler.sdk.http import Attempt
from reconciler.serve.metrics import Metrics

UNTIL = datetime(2026, 3, 1, tzinfo=UTC)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_http_attempts_by_type_method_and_code() -> None:
    metrics = Metrics()
    metrics.observe_http("jira", Attempt("GET", "jira.example", 200, 0.2, 0, "sync"))
    metrics.observe_http("jira", Attempt("GET", "other.example", None, 5.0, 1, "sync"))
    metrics.observe_http("jira", Attempt("X-MADE-UP", "jira.example", 500, 0.1, 0, "sync"))
    found = samples(metrics)
    requests = {labels: v for (name, labels), v in found.items() if name == "reconciler_http_client_requests_total"}
    assert requests == {
        (("code", "200"), ("method", "GET"), ("type", "jira")): 1,
        (("code", "none"), ("method", "GET"), ("type", "jira")): 1,
        (("code", "500"), ("method", "other"), ("type", "jira")): 1,
    }
    assert found["reconciler_http_client_request_retries_total", (("type", "jira"),)] == 1
    counted = "reconciler_http_client_request_duration_seconds_count"
    assert found[counted, (("method", "GET"), ("type", "jira"))] == 2


def test_names_of_integrations_are_no_labels_of_histograms() -> None:
    metrics = Metrics()
    for i in range(50):
        metrics.observe_run("jira", "w", f"jira-{i}", "success", 3.0, Counts(added=1))
    page = metrics.render().decode()
    assert "jira-7" not in page
    assert 'reconciler_sync_run_total{result="success",type="jira"} 50.0' in page
    assert metrics.tallies.render([("w", f"jira-{i}") for i in range(50)]).count(b'operation="added"') == 50


def test_reconciles_git_deliveries_and_queue() -> None:
    metrics = Metrics()
    metrics.observe_reconcile("jira", "success", 0.3)
    metrics.observe_git("main", "success", 0.4)
    metrics.observe_delivery("slack", "post_message", "delivered", 0.1)
    metrics.observe_job("sync", "error", 0.1)
    metrics.count_queue_add("work")
    metrics.count_queue_retry("work")
    found = samples(metrics)
    assert found["reconciler_reconcile_total", (("result", "success"), ("type", "jira"))] == 1
    assert found["reconciler_git_request_total", (("op", "fetch"), ("result", "success"), ("source", "main"))] == 1
    sent = (("channel", "post_message"), ("outcome", "delivered"), ("type", "slack"))
    assert found["reconciler_delivery_attempts_total", sent] == 1
    assert found["reconciler_job_duration_seconds_count", (("kind", "sync"), ("result", "error"))] == 1
    assert found["reconciler_queue_adds_total", (("queue", "work"),)] == 1
    assert found["reconciler_queue_retries_total", (("queue", "work"),)] == 1


def test_a_new_plan_replaces_the_old() -> None:
    metrics = Metrics()
    metrics.set_plan({Action.CONNECT: 3, Action.PURGE: 1})
    metrics.set_plan({Action.UPDATE: 2})
    changes = {labels[0][1]: v for (name, labels), v in samples(metrics).items() if name == "reconciler_plan_changes"}
    assert changes == {"connect": 0, "update": 2, "reconnect": 0, "disconnect": 0, "purge": 0, "adopt": 0}


def test_budgets_show_the_smallest_of_a_host_and_no_fingerprint() -> None:
    states = [
        BudgetState("a.example", "f1f1", "core", 100, 40, None, None, 0),
        BudgetState("a.example", "f2f2", "core", 100, 7, None, UNTIL, 0),
        BudgetState("b.example", "f3f3", "", None, None, None, None, 0),
    ]

    def budgets() -> Iterator[BudgetState]:
        return iter(states)

    metrics = Metrics(budgets)
    found = samples(metrics)
    assert found["reconciler_rate_budget_remaining", (("host", "a.example"), ("quota", "core"))] == 7
    blocked = "reconciler_rate_budget_blocked_until_timestamp_seconds"
    assert found[blocked, (("host", "a.example"),)] == UNTIL.timestamp()
    assert not any("b.example" in str(key) or "f1f1" in str(key) for key in found)
    states.clear()
    assert not any(name.startswith("reconciler_rate_budget") for name, _ in samples(metrics))


def test_a_store_that_refuses_is_seen() -> None:
    totals = iter((0, 3, 3, 4))
    metrics = Metrics(refused=lambda: next(totals))
    seen = [samples(metrics)["reconciler_store_refused_writes_total", ()] for _ in range(4)]
    assert seen == [0, 3, 3, 4]


def test_process_and_build_are_there() -> None:
    names = {name for name, _ in samples(Metrics())}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "reconciler_build_info"} <= names
