"""The log names what is wrong with a revision, and what an observing daemon would do; long lists are cut."""

from structlog.testing import CapturingLogger

from reconciler.app.announce import MOST, announce
from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.plan import Action, Plan, PlannedAction


def _plan(actions: int, findings: int) -> Plan:
    made = [
        PlannedAction(Ref("ops", f"n{n}"), "slack", Action.CONNECT, "new", file="a.yaml", line=n)
        for n in range(1, actions + 1)
    ]
    found = [Finding("b.yaml", n, 1, Code.UNKNOWN_FIELD, "unknown") for n in range(1, findings + 1)]
    return Plan("", "0123456789abcdef", tuple(made), tuple(found), counts={Action.CONNECT: actions})


def _said(plan: Plan, *, is_observing: bool) -> list[tuple[str, str, dict[str, object]]]:
    logger = CapturingLogger()
    announce(logger, plan, is_observing=is_observing)
    return [(call.method_name, call.args[0], call.kwargs) for call in logger.calls]


def test_findings_are_named() -> None:
    said = _said(_plan(1, 1), is_observing=False)
    assert said == [
        ("warning", "Plan: 1 to connect, 0 to update, 0 to disconnect; 0 unchanged.",
         {"revision": "0123456789ab", "findings": 1}),
        ("warning", "finding", {"what": "b.yaml:1:1: unknown-field: unknown"}),
    ]  # fmt: skip


def test_an_observer_says_what_it_would_do() -> None:
    said = _said(_plan(1, 0), is_observing=True)
    assert said[1:] == [
        ("info", "would be done", {"action": "connect", "integration": "ops/n1", "why": "new", "where": "a.yaml:1"})
    ]


def test_long_lists_are_cut_and_say_so() -> None:
    said = _said(_plan(MOST + 7, MOST + 3), is_observing=True)
    assert len(said) == 2 + 2 * MOST
    assert said[-1] == ("info", "more is left out here", {"findings": 3, "actions": 7})
