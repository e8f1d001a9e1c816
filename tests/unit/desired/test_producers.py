"""A synchronization that waits for what nobody produces is warned of, with what was meant; nothing uncertain is said."""

from pathlib import Path

import pytest

from reconciler.desired.parse_cache import ParseCache
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.event import Lifecycle
from reconciler.model.finding import Severity
from tests.unit.desired.manifest_kit import MemorySnapshot, TinyRegistry, check, desk, lines, snapshot

NEVER = "nothing would ever be delivered"
UNREAD = "only what is published over the API would be delivered"
ALL = "there are: integration.*, people.*, schema.*, sync.*, ticket.*"
BELL = desk("b", "default", type="bell", auth="", config="")  # reads nothing
TOLD = "a.yaml:8:58: unknown-event: "


def waiting(event_type: str, more: str = "", **spec: str) -> str:
    """Integration `a`, which posts what it is told."""
    text = f"[{{name: s, action: post, event_type: '{event_type}', template: x, map: {{channel: c}}{more}}}]"
    return desk("a", synchronizations=text, **spec)


def told(event_type: str, more: str = "", **others: str) -> list[str]:
    return lines(check({"a.yaml": waiting(event_type, more)} | {f"{name}.yaml": text for name, text in others.items()}))


@pytest.mark.parametrize("event_type", ["ticket.created", "people.updated", "*.deleted", "t*.created", "*.*"])
def test_what_somebody_produces(event_type: str) -> None:
    assert told(event_type, b=desk("b")) == []


@pytest.mark.parametrize("event_type", [*Lifecycle, "integration.*", "sync.*"])
def test_every_integration_produces_what_happens_to_itself(event_type: str) -> None:
    assert told(event_type, ", from: [b]", b=BELL) == []


@pytest.mark.parametrize(
    ("event_type", "more", "said"),
    [
        ("tickets.created", ", from: [b]", f"b produces no tickets.created: {UNREAD} (did you mean ticket.created?)"),
        ("tiket.*", "", f"no other integration of this workspace produces tiket.*: {UNREAD} (did you mean ticket.*?)"),
        ("change.created", ", from: [b, c]", f"b, c produce no change.created: {UNREAD} ({ALL})"),
    ],
)  # fmt: skip
def test_what_nobody_produces_is_warned_of(event_type: str, more: str, said: str) -> None:
    found = check({"a.yaml": waiting(event_type, more), "b.yaml": desk("b"), "c.yaml": desk("c")})
    assert lines(found) == [TOLD + said]
    assert [one.severity for one in found.state.findings] == [Severity.WARNING]
    assert not found.state.held


def test_a_mistyped_event_of_integrations_is_warned_of_even_in_a_file_alone() -> None:
    files = {"a.yaml": waiting("integration.eror")}
    (found,) = lines(check(files, check_links=False))
    assert lines(check(files | {"b.yaml": BELL})) == [found]
    assert found == f"{TOLD}there is no event integration.eror: {NEVER} (did you mean integration.error?)"


def test_entities_that_are_not_read_produce_nothing() -> None:
    (found,) = told("ticket.created", b=desk("b", sync="{entities: [people]}"))
    assert found.endswith(f"produces ticket.created: {UNREAD} (there are: integration.*, people.*, schema.*, sync.*)")
    assert TOLD in told("ticket.created", b=desk("b", sync_direction="outbound"))[0]


def test_what_an_integration_reads_itself_counts_only_where_it_names_itself() -> None:
    assert TOLD in told("ticket.created", b=BELL)[0]
    assert told("ticket.created", ", from: [a]", b=BELL) == []
    assert told("ticket.created") == [], "the first manifest of a workspace: others will come"


def test_nothing_is_said_where_it_is_not_certain() -> None:
    assert all("unknown-event" not in one for one in told("thing.created", b=desk("b", typo="1")))
    assert all("unknown-event" not in one for one in told("thing.created", ", from: [none]"))
    assert told("thing.created", ", enabled: false", b=BELL) == []
    files = {"a.yaml": waiting("thing.created"), "b.yaml": BELL}
    assert lines(check(files, check_links=False)) == lines(check(files, is_alone=False)) == []
    assert TOLD in told("thing.created", b=BELL, elsewhere=desk("elsewhere", "other", typo="1"))[0]


def _again(files: dict[str, str], before: Validated) -> list[str]:
    """As the daemon sees it; the same must come of a look at everything."""
    found = lines(check(files, before))
    assert found == lines(check(files))
    return found


def test_a_change_elsewhere_makes_the_warning_come_and_go() -> None:
    files = {"a.yaml": waiting("ticket.created"), "b.yaml": desk("b")}
    first = check(files)
    assert lines(first) == []
    narrowed = files | {"b.yaml": desk("b", sync="{entities: [people]}")}
    assert TOLD in _again(narrowed, first)[0]
    assert _again(files, check(narrowed, first)) == []
    assert TOLD in _again({"a.yaml": files["a.yaml"], "bell.yaml": BELL}, first)[0]
    assert _again(narrowed | {"c.yaml": desk("c")}, check(narrowed, first)) == []


def test_the_place_of_a_lasting_warning_is_looked_up_once_and_moves_with_its_file() -> None:
    files = {"a.yaml": waiting("thing.created"), "b.yaml": desk("b")}
    first = check(files)
    later = check(files | {"c.yaml": desk("c")}, first)
    assert lines(later)[0].startswith("a.yaml:8:58: unknown-event: ")
    assert isinstance(later.snapshot, MemorySnapshot)
    assert later.snapshot.reads == ["c.yaml"]
    assert _again(files | {"a.yaml": f"# note\n{files['a.yaml']}"}, later)[0].startswith("a.yaml:9:58: ")


def test_kept_files_are_judged_as_read_ones(tmp_path: Path) -> None:
    files = {"a.yaml": waiting("ticket.created"), "b.yaml": desk("b"), "c.yaml": desk("c")}

    def run(now: dict[str, str]) -> list[str]:
        cache = ParseCache(tmp_path / "manifests.cache")
        found = validate(snapshot(now), Inputs(source="test", registry=TinyRegistry(), cache=cache))
        cache.save()
        return lines(found)

    assert run(files) == run(files) == []
    assert TOLD in run({"a.yaml": files["a.yaml"], "b.yaml": BELL})[0]
