"""What happens in this process, counted: rooms are handed the `observe_...` methods as plain callbacks.

Process-wide metrics live in a registry of their own; names of integrations never become labels of histograms. What runs
added up to is kept per integration (`Tallies`), because those series must go with their integration. Counts of a process
start anew with it, as Prometheus expects; what must survive restarts is counted in the store and exposed by `exposition`.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from reconciler import __version__
from reconciler.model.plan import Action
from reconciler.model.record import Counts
from reconciler.sdk.budget import BudgetState
from reconciler.sdk.http import Attempt
from reconciler.serve.tallies import Tallies

_QUICK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800)
_LONG = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Made once by the daemon. `budgets` tells the state of all rate budgets, `refused` how many writes the disk refused."""

    def __init__(self, budgets: Callable[[], Iterable[BudgetState]] = tuple, refused: Callable[[], int] = int) -> None:
        self.registry = CollectorRegistry()
        self.tallies = Tallies()
        self._budgets = budgets
        self._refused = refused
        self._make_process()
        self._make_reconcile()
        self._make_http()
        self._make_runs()
        self._make_git()
        self._make_queue()
        self._make_budgets()

    def _make_process(self) -> None:
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = self._gauge("build_info", "Version of this program; always 1.", "version", "python_version")
        build.labels(__version__, platform.python_version()).set(1)
        self._refusals = self._counter(
            "store_refused_writes", "Writes that the disk refused, because it is full or broken."
        )
        self._refusals_seen = 0
        self._lag = self._gauge(
            "event_loop_lag_seconds", "By how much a timer of the event loop was late, last measured."
        )

    def _make_reconcile(self) -> None:
        self._reconciles = self._counter("reconcile", "Reconciles by connector type and result.", "type", "result")
        self._reconcile_seconds = self._histogram(
            "reconcile_duration_seconds", "How long a reconcile took.", _SLOW, "type", "result"
        )
        self._plan = self._gauge("plan_changes", "Actions of the plan that was taken over last.", "action")

    def _make_http(self) -> None:
        self._requests = self._counter(
            "http_client_requests", "Requests to remotes; code is none where no answer came.", "type", "method", "code"
        )
        self._request_seconds = self._histogram(
            "http_client_request_duration_seconds", "Time to the answer of a remote.", _QUICK, "type", "method"
        )
        self._request_retries = self._counter("http_client_request_retries", "Requests that were repetitions.", "type")

    def _make_runs(self) -> None:
        self._runs = self._counter("sync_run", "Sync runs that ended, by result.", "type", "result")
        self._run_seconds = self._histogram(
            "sync_run_duration_seconds", "How long a sync run took.", _LONG, "type", "result"
        )
        self._attempts = self._counter(
            "delivery_attempts", "Attempts to deliver, by outcome.", "type", "channel", "outcome"
        )
        self._attempt_seconds = self._histogram(
            "delivery_attempt_duration_seconds", "How long an attempt to deliver took.", _QUICK, "type"
        )

    def _make_git(self) -> None:
        self._git = self._counter("git_request", "Requests to Git remotes.", "source", "op", "result")
        self._git_seconds = self._histogram(
            "git_request_duration_seconds", "How long a request to a Git remote took.", _QUICK, "source", "op"
        )

    def _make_queue(self) -> None:
        self._adds = self._counter("queue_adds", "Jobs that were due and have begun.", "queue")
        self._retries = self._counter("queue_retries", "Jobs that failed and were made due again.", "queue")
        self._job_seconds = self._histogram("job_duration_seconds", "How long a job ran.", _SLOW, "kind", "result")

    def _make_budgets(self) -> None:
        self._remaining = self._gauge(
            "rate_budget_remaining",
            "Requests left in the smallest budget of a host, as the remote said last.",
            "host",
            "quota",
        )
        self._blocked = self._gauge(
            "rate_budget_blocked_until_timestamp_seconds", "Until when a host wants to be left alone.", "host"
        )

    def observe_reconcile(self, type_name: str, result: str, seconds: float) -> None:
        """`result`: success, retry or stalled."""
        self._reconciles.labels(type_name, result).inc()
        self._reconcile_seconds.labels(type_name, result).observe(seconds)

    def observe_http(self, type_name: str, attempt: Attempt) -> None:
        """Hand `functools.partial(metrics.observe_http, type_name)` to the client of one integration."""
        method = attempt.method if attempt.method in _METHODS else "other"
        code = "none" if attempt.status is None else str(attempt.status)
        self._requests.labels(type_name, method, code).inc()
        self._request_seconds.labels(type_name, method).observe(attempt.seconds)
        if attempt.retry:
            self._request_retries.labels(type_name).inc()

    def observe_run(
        self, type_name: str, workspace: str, name: str, result: str, seconds: float, counts: Counts
    ) -> None:
        """A sync run has ended."""
        self._runs.labels(type_name, result).inc()
        self._run_seconds.labels(type_name, result).observe(seconds)
        self.tallies.add(workspace, name, seconds, counts)

    def observe_delivery(self, type_name: str, channel: str, outcome: str, seconds: float) -> None:
        """One attempt has ended; `outcome` is the delivery's status after it."""
        self._attempts.labels(type_name, channel, outcome).inc()
        self._attempt_seconds.labels(type_name).observe(seconds)

    def observe_git(self, source: str, result: str, seconds: float, op: str = "fetch") -> None:
        """`result`: success, or the reason of the error."""
        self._git.labels(source, op, result).inc()
        self._git_seconds.labels(source, op).observe(seconds)

    def observe_job(self, kind: str, result: str, seconds: float) -> None:
        """`result`: success or error."""
        self._job_seconds.labels(kind, result).observe(seconds)

    def count_queue_add(self, queue: str) -> None:
        self._adds.labels(queue).inc()

    def count_queue_retry(self, queue: str) -> None:
        self._retries.labels(queue).inc()

    def set_plan(self, changes: Mapping[Action, int]) -> None:
        """Actions of the plan taken over last, by kind; kinds that are not named are 0."""
        for action in Action:
            if action is not Action.NONE:
                self._plan.labels(action).set(changes.get(action, 0))

    async def watch_loop(self, every: float = 1.0) -> None:
        """Measures how late the event loop is; run it as a task for as long as the daemon lives."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(every)
            self._lag.set(max(0.0, loop.time() - asked - every))

    def render(self) -> bytes:
        """All of the registry in the text format. Not the tallies."""
        self._read_budgets()
        seen, self._refusals_seen = self._refusals_seen, self._refused()
        self._refusals.inc(self._refusals_seen - seen)
        return generate_latest(self.registry)

    def _read_budgets(self) -> None:
        """Budgets of several credentials on one host become the smallest: a fingerprint is no label."""
        self._remaining.clear()
        self._blocked.clear()
        remaining: dict[tuple[str, str], int] = {}
        blocked: dict[str, float] = {}
        for state in self._budgets():
            if state.remaining is not None:
                key = state.host, state.quota
                remaining[key] = min(remaining.get(key, state.remaining), state.remaining)
            if state.blocked_until is not None:
                blocked[state.host] = max(blocked.get(state.host, 0.0), state.blocked_until.timestamp())
        for (host, quota), left in remaining.items():
            self._remaining.labels(host, quota).set(left)
        for host, until in blocked.items():
            self._blocked.labels(host).set(until)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"reconciler_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"reconciler_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"reconciler_{name}", text, labels, buckets=buckets, registry=self.registry)
