"""The text format: one integration's lines word for word, escaping, numbers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.control.view import IntegrationView
from reconciler.model.condition import Condition, ConditionType, Health, Reason, Status, SyncStatus, Truth, ready
from reconciler.model.record import Counts
from reconciler.serve.exposition import INTEGRATION_FAMILIES, Family, integration_lines, number, pairs
from reconciler.serve.tallies import Tallies
from reconciler.store.integrations import IntegrationRow

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = IntegrationRow(
    id=1,
    public_id="int_sn_1",
    workspace="it-ops",
    name="sn-prod",
    type="servicenow",
    display_name="",
    labels={},
    is_desired=True,
    generation=2,
    observed_generation=2,
    desired_hash="",
    desired_effective="",
    file="",
    line=1,
    revision="main@sha1:aa",
    created_by="",
    manifest_updated_at=None,
    applied_hash="",
    applied_effective="",
    applied_revision="",
    applied_type="",
    applied_policy="",
    applied_at=None,
    is_connected=True,
    suspend_reason="",
    suspended_by="",
    suspended_until=None,
    identity="",
    account="",
    missing=(),
    latency_ms=120.5,
    skew_ms=None,
    probe_at=None,
    next_probe_at=None,
    error_count=0,
    credential_expires_at="2026-03-02T00:00:00.000000Z",
    connected_at=None,
    retries=0,
    next_attempt_at=None,
    next_sync_at=None,
    next_keys_at=None,
    last_sync_at="2026-03-01T11:59:30.500000Z",
    last_sync_result="success",
    last_sync_reason="",
    last_sync_error="",
    last_run_at=None,
    total_syncs=42,
    failed_syncs=3,
    drifted=("webhook incident",),
    created_at="2026-01-01T00:00:00.000000Z",
    removed_at=None,
)
CONDITIONS = {
    ConditionType.CONNECTED: Condition(ConditionType.CONNECTED, Truth.TRUE, Reason.SUCCEEDED, "", AT),
    ConditionType.DRIFTED: Condition(ConditionType.DRIFTED, Truth.TRUE, Reason.DRIFT_DETECTED, "", AT),
}
VIEW = IntegrationView(
    row=ROW,
    conditions=CONDITIONS,
    ready=ready(CONDITIONS, AT),
    status=Status.CONNECTED,
    health=Health.DEGRADED,
    sync_status=SyncStatus.HEALTHY,
    uptime_percent=99.5,
    objective=timedelta(minutes=30),
    running=None,
    deliveries={"pending": 2, "delivered": 10},
    oldest_delivery_at="2026-03-01T11:00:00.000000Z",
)
WHO = 'workspace="it-ops",name="sn-prod"'
GOLDEN = f"""\
reconciler_integration_info{{{WHO},type="servicenow",revision="main@sha1:aa"}} 1
reconciler_integration_status{{{WHO},status="connected"}} 1
reconciler_integration_health{{{WHO},health="degraded"}} 1
reconciler_sync_status{{{WHO},sync_status="healthy"}} 1
reconciler_condition{{{WHO},condition="Ready",status="True",reason="Succeeded"}} 1
reconciler_condition{{{WHO},condition="Connected",status="True",reason="Succeeded"}} 1
reconciler_condition{{{WHO},condition="Drifted",status="True",reason="DriftDetected"}} 1
reconciler_suspended{{{WHO}}} 0
reconciler_probe_latency_seconds{{{WHO}}} 0.1205
reconciler_consecutive_errors{{{WHO}}} 0
reconciler_uptime_ratio{{{WHO}}} 0.995
reconciler_syncs_total{{{WHO}}} 42
reconciler_sync_failures_total{{{WHO}}} 3
reconciler_last_success_timestamp_seconds{{{WHO}}} 1772366370.5
reconciler_freshness_objective_seconds{{{WHO}}} 1800.0
reconciler_drift_fields{{{WHO}}} 1
reconciler_credential_expiry_timestamp_seconds{{{WHO}}} 1772409600.0
reconciler_deliveries{{{WHO},status="delivered"}} 10
reconciler_deliveries{{{WHO},status="pending"}} 2
reconciler_delivery_oldest_timestamp_seconds{{{WHO}}} 1772362800.0
"""


def test_one_integration_word_for_word() -> None:
    assert b"".join(integration_lines(VIEW)).decode() == GOLDEN


def test_what_does_not_apply_has_no_series() -> None:
    row = replace(ROW, latency_ms=None, last_sync_at=None, credential_expires_at=None)
    view = replace(
        VIEW, row=row, sync_status=None, uptime_percent=None, objective=None, deliveries={}, oldest_delivery_at=None
    )
    absent = {f.name for f, lines in zip(INTEGRATION_FAMILIES, integration_lines(view), strict=True) if not lines}
    assert absent == {
        "reconciler_sync_status",
        "reconciler_probe_latency_seconds",
        "reconciler_uptime_ratio",
        "reconciler_last_success_timestamp_seconds",
        "reconciler_freshness_objective_seconds",
        "reconciler_next_sync_timestamp_seconds",
        "reconciler_credential_expiry_timestamp_seconds",
        "reconciler_deliveries",
        "reconciler_delivery_oldest_timestamp_seconds",
    }


def test_families_have_distinct_names_and_help() -> None:
    names = [family.name for family in INTEGRATION_FAMILIES]
    assert len(set(names)) == len(names)
    assert all(family.help.endswith(".") for family in INTEGRATION_FAMILIES)
    assert all(family.name.endswith("_total") == (family.kind == "counter") for family in INTEGRATION_FAMILIES)


def test_labels_and_help_are_escaped() -> None:
    assert pairs({"a": 'quote " backslash \\ line\nend'}) == r'a="quote \" backslash \\ line\nend"'
    assert Family("x", "gauge", "one \\ two\nthree").head == b"# HELP x one \\\\ two\\nthree\n# TYPE x gauge\n"


def test_samples_without_shared_labels() -> None:
    family = Family("x", "gauge", "X.")
    assert family.lines("", [({"a": "1"}, 2), ({}, 3.5)]) == b'x{a="1"} 2\nx{} 3.5\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (2**60, "1152921504606846976"), (0.1, "0.1"), (float("inf"), "+Inf"), (float("nan"), "NaN")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_tallies_add_up_and_go_with_their_integration() -> None:
    tallies = Tallies()
    tallies.add("w", "one", 1.5, Counts(added=2, unchanged=7))
    tallies.add("w", "one", 0.5, Counts(added=1, deleted=4))
    tallies.add("w", "two", 9.0, Counts())
    page = tallies.render([("w", "one")]).decode()
    assert 'reconciler_sync_records_total{workspace="w",name="one",operation="added"} 3\n' in page
    assert 'reconciler_sync_records_total{workspace="w",name="one",operation="deleted"} 4\n' in page
    assert 'reconciler_sync_seconds_total{workspace="w",name="one"} 2.0\n' in page
    assert '"two"' not in page
    assert '"two"' not in tallies.render([("w", "one"), ("w", "two")]).decode()
