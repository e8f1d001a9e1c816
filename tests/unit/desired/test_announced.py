"""Event types that `config` lists: findings stand where they are written, and are those of a synchronization."""

from pathlib import Path
from typing import ClassVar

import pytest

from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.parse_cache import ParseCache
from reconciler.desired.validate import Inputs, validate
from reconciler.sdk.contract import Channel, Connector, NoAuth, Probe, Settings
from tests.unit.desired.manifest_kit import TinyRegistry, desk, lines, snapshot


class Out(Settings):
    url: str = ""
    events: tuple[str, ...] = ()


class HornConfig(Settings):
    out: Out | None = None


class Said(Settings):
    text: str = ""


class Horn(Connector[HornConfig, NoAuth]):
    """Tells what its `config` lists."""

    type = "horn"
    title = "Horn"
    Config = HornConfig
    auth_types = (NoAuth,)
    channels = (Channel(name="blow", fields=Said, text_field="text", events_at="out.events"),)

    async def probe(self) -> Probe:
        return Probe("nobody")


class Band(TinyRegistry):
    connectors: ClassVar[dict[str, AnyConnector]] = TinyRegistry.connectors | {"horn": Horn}


def horn(config: str, **more: str) -> str:
    return desk("h", type="horn", auth="", config=config, **more)


def found(files: dict[str, str], cache: ParseCache | None = None) -> list[str]:
    return lines(validate(snapshot(files), Inputs(source="test", registry=Band(), cache=cache)))


@pytest.mark.parametrize("types", ["sync.failed", "ticket.created, integration.*", "'*.*'"])
def test_what_happens_or_may_be_published_is_right(types: str) -> None:
    wrong = found({"h.yaml": horn(f"{{out: {{events: [{types}]}}}}"), "a.yaml": desk("a")})
    assert wrong == []


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ("sync.faild", "6:27: unknown-event: there is no event sync.faild: nothing would ever be delivered"),
        ("sync.failed, ticket.creatd", "6:40: invalid-value: there is no event ticket.creatd"),
        ("tiket.created", "6:27: unknown-event: no other integration of this workspace produces tiket.created"),
        ("{from_env: X}", "6:27: invalid-value: spec.config.out.events[0] must stand here as it is"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(types: str, said: str) -> None:
    (line,) = found({"h.yaml": horn(f"{{out: {{events: [{types}]}}}}"), "a.yaml": desk("a")})
    assert line.startswith(f"h.yaml:{said}")


def test_its_name_is_not_for_others() -> None:
    own = "[{name: out, action: blow, event_type: sync.failed}]"
    (line,) = found({"h.yaml": horn("{out: {events: [sync.failed]}}", synchronizations=own)})
    assert line.startswith("h.yaml:7:29: duplicate-name: out is the name of what spec.config.out.events sends")
    assert found({"h.yaml": horn("{out: {url: x}}", synchronizations=own)}) == []


def test_inbound_takes_none() -> None:
    _, said = found({"h.yaml": horn("{out: {events: [sync.failed]}}", sync_direction="inbound")})
    assert "sync_direction is inbound, but spec.config.out.events delivers events" in said


def test_what_else_is_wrong_hides_nothing() -> None:
    wrong = found({"h.yaml": horn("{out: {events: [sync.faild], uri: x}}", display_name="[1]")})
    assert len(wrong) == 3


def test_kept_files_are_judged_as_read_ones(tmp_path: Path) -> None:
    files = {"h.yaml": horn("{out: {events: [ticket.created]}}"), "a.yaml": desk("a")}

    def run(now: dict[str, str]) -> list[str]:
        cache = ParseCache(tmp_path / "manifests.cache")
        said = found(now, cache)
        cache.save()
        return said

    assert run(files) == run(files) == []
    (line,) = run({"h.yaml": files["h.yaml"], "b.yaml": desk("b", type="bell", auth="", config="")})
    assert line.startswith("h.yaml:6:27: unknown-event: ")
