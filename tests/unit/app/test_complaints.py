"""A store that fails is told in one line now and then; what is our own fault always, with its traceback."""

from structlog.testing import CapturingLogger

from reconciler.app.complaints import SAY_AGAIN, Complaints
from reconciler.model.job import Job
from reconciler.store.errors import StoreBusyError, StoreConflictError, StoreFullError
from reconciler.work.ports import EngineError
from tests.unit.sdk.virtual_clock import VirtualClock

JOB = Job(id=1, kind="sync", queue="work", key="3", ref="7", attempt=2)


def test_the_same_trouble_of_the_store_is_one_line_for_a_while() -> None:
    clock, logger = VirtualClock(), CapturingLogger()
    complain = Complaints(clock, logger)
    for _ in range(100):
        complain("work scan failed", StoreFullError("no room left"), None)
        complain("work tend failed", StoreFullError("no room left"), None)
    complain("work scan failed", StoreBusyError("locked"), None)
    complain("work scan failed", EngineError("full"), None)
    complain("work scan failed", EngineError("full"), None)
    assert [(c.args, c.kwargs) for c in logger.calls] == [
        (("work scan failed",), {"error": "no room left"}),
        (("work scan failed",), {"error": "locked"}),
        (("work scan failed",), {"error": "full"}),
    ]
    clock.advance(SAY_AGAIN.total_seconds() + 1)
    complain("work tend failed", StoreFullError("no room left"), None)
    assert len(logger.calls) == 4


def test_a_fault_of_ours_is_told_each_time_with_its_traceback() -> None:
    logger = CapturingLogger()
    complain = Complaints(VirtualClock(), logger)
    for error in (RuntimeError("x"), StoreConflictError("a rule of the tables")):
        complain("job failed", error, JOB)
        complain("job failed", error, JOB)
        assert [c.kwargs for c in logger.calls[-2:]] == [{"job": "sync:7:2", "exc_info": error}] * 2
    assert len(logger.calls) == 4
