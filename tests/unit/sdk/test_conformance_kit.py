"""The kit must catch what it promises to catch: a small vendor, a good connector, and one bad connector per defect."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from reconciler.model.clock import rfc3339
from reconciler.model.event import Message, Receipt
from reconciler.model.record import Page, ReadRequest, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, bearer
from reconciler.sdk.contract import AuthClasses, AuthSettings, Channel, Deletes, Entity, Probe, Repeat, Settings
from reconciler.sdk.errors import ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.paging import NextToken
from reconciler.sdk.rest import RestChannel, RestConnector, RestEntity
from reconciler.sdk.testing.case import CANARY, Case, Dispatch
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route

AUTHORIZED = {"Authorization": "Bearer *"}


class Shop(Simulator):
    """Orders behind a token pager, oldest change first; notes are accepted."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.orders: dict[str, dict[str, Any]] = {}
        self.notes: list[Any] = []
        self.serial = 0

    def admit(self, call: Call) -> Reply | None:
        return None if call.headers["authorization"] == f"Bearer {CANARY}" else self.error(401)

    @route("GET", "/me", headers=AUTHORIZED)
    def me(self, call: Call) -> Reply:
        return Reply(json={"name": "kit"})

    @route("GET", "/orders", query=("after", "limit", "since", "fields"), headers=AUTHORIZED)
    def listed(self, call: Call) -> Reply:
        found = [o for o in self.orders.values() if o["changed"] >= call.query.get("since", "")]
        found.sort(key=lambda o: (o["changed"], o["id"]))
        after = tuple(call.query["after"].split("|")[:2]) if "after" in call.query else ("", "")
        left = [o for o in found if (o["changed"], o["id"]) > after]
        page = [] if call.wants_empty() else left[: call.size(int(call.query.get("limit", "50")))]
        self.serial += 1
        last = (page[-1]["changed"], page[-1]["id"]) if page else after
        token = "|".join((*last, str(self.serial))) if len(page) < len(left) else None
        wanted = call.query.get("fields", "id,changed,text").split(",")
        return Reply(json={"orders": [{name: o[name] for name in wanted} for o in page], "next": token})

    @route("POST", "/notes", headers=AUTHORIZED, body="json", fields=("text",))
    def noted(self, call: Call) -> Reply:
        self.notes.append(call.json)
        return Reply(status=201, json={"id": str(len(self.notes))})


class Token(AuthSettings):
    type: Literal["token"] = "token"
    token: Secret


class ShopConfig(Settings):
    url: str


class Note(Settings):
    text: str


ORDERS = RestEntity(
    name="orders", path="/orders", records="orders", pager=NextToken("next", param="after"), cursor="changed",
    since=lambda at: {"since": rfc3339(at)}, ordered=True,
)  # fmt: skip
NOTES = RestChannel(
    name="note", fields=Note, text_field="text", path="/notes", body=lambda _, m: dict(m.fields), receipt="id"
)


class Good(RestConnector[ShopConfig, Token]):
    """A connector to the shop."""

    type = "shop"
    title = "Shop"
    Config = ShopConfig
    auth_types: ClassVar[AuthClasses] = (Token,)
    entities: ClassVar[tuple[Entity, ...]] = (ORDERS,)
    channels: ClassVar[tuple[Channel, ...]] = (NOTES,)

    def base_url(self) -> str:
        return self.config.url

    def authenticator(self) -> Authenticator:
        return bearer(self.auth.token)

    async def probe(self) -> Probe:
        me = await self.send("GET", "/me", lane="probe")
        try:
            await self.send("GET", "/orders", params={"limit": 1}, lane="probe")
        except ForbiddenError:
            return Probe(me.json()["name"], entities={"orders": False})
        return Probe(me.json()["name"], entities={"orders": True})


class ShopCase(Case):
    connector = Good

    def __init__(self, connector: type[Good] = Good) -> None:
        self.connector = connector  # type: ignore[misc]

    def simulator(self, now: Callable[[], datetime]) -> Shop:
        return Shop(now=now)

    def config(self, sim: Any) -> Mapping[str, Any]:
        return {"url": sim.url}

    def auth(self, sim: Any) -> Mapping[str, Any]:
        return {"type": "token", "token": CANARY}

    def wrong_auth(self, sim: Any) -> Mapping[str, Any]:
        return {"type": "token", "token": f"{CANARY}-wrong"}

    def put(self, sim: Any, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        key = f"o{number}"
        sim.orders[key] = {"id": key, "changed": rfc3339(at) if at else "", "text": text}
        return key

    def remove(self, sim: Any, entity: Entity, key: str) -> None:
        del sim.orders[key]

    def dispatch(self, sim: Any, channel: Channel) -> Dispatch:
        return Dispatch(fields={"text": "hello"}, arrived=lambda s: len(s.notes))


class TestShop(Conformance):
    """The good connector passes everything."""

    case = ShopCase()


class ListsKeys(Good):
    entities = (replace(ORDERS, deletes=Deletes.KEYS, key_params={"fields": "id,changed"}),)


class TestShopOfKeys(Conformance):
    """So does one that lists keys alone."""

    case = ShopCase(ListsKeys)


class EndsOnAShortPage(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            is_short = len(page.keys) < (request.page_size or 50)
            yield replace(page, position=None) if is_short else page
            if is_short:
                return


class OpenBound(Good):
    entities = (replace(ORDERS, since=lambda at: {"since": rfc3339(at + timedelta(minutes=5, seconds=1))}),)


class NoOverlap(Good):
    entities = (replace(ORDERS, since=lambda at: {"since": rfc3339(at + timedelta(minutes=5))}),)


class ReadsEverything(Good):
    entities = (replace(ORDERS, since=None),)


class TakesRefusedForEmpty(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        try:
            async for page in super().read(entity, request):
                yield page
        except ForbiddenError:
            yield Page((), ())


class TakesBrokenForTheEnd(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        try:
            async for page in super().read(entity, request):
                yield page
        except TransientError:
            return


class VariesRecords(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            noise = str(id(page)).encode()
            yield replace(page, payloads=tuple(p[:-1] + b', "read": ' + noise + b"}" for p in page.payloads))


class MovesWatermarksEarly(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            yield replace(page, watermark=request.started_at)


class ForgetsRecordsOnResume(Good):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            if not request.resume or request.resume["at"]["token"].split("|")[1] == "o5":
                yield page


class TellsNoDeletions(Good):
    entities = (replace(ORDERS, deletes=Deletes.FLAG),)


class BringsRecordsWithKeys(Good):
    entities = (replace(ORDERS, deletes=Deletes.KEYS),)


class ListsKeysShort(EndsOnAShortPage):
    entities = ListsKeys.entities


class TakesRefusedKeysForNone(TakesRefusedForEmpty):
    entities = ListsKeys.entities


class ListsOnlyNewKeys(ListsKeys):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            is_old = request.scope is Scope.KEYS and page.position is not None
            yield replace(page, keys=(), payloads=(), changed_at=()) if is_old else page


class ForgetsKeysOnResume(ListsKeys):
    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        async for page in super().read(entity, request):
            is_lost = request.resume is not None and request.scope is Scope.KEYS
            yield replace(page, keys=(), payloads=(), changed_at=()) if is_lost else page


class SaysTheSecret(Good):
    async def probe(self) -> Probe:
        try:
            return await super().probe()
        except UnauthorizedError:
            raise UnauthorizedError(f"refused: {self.auth.token.reveal()}") from None


class SeesNothingMissing(Good):
    async def probe(self) -> Probe:
        return Probe("kit")


class RepeatsBlindly(Good):
    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        await self.send("POST", "/notes", json=dict(message.fields), safe=True, lane="deliver")
        return Receipt("1")


class TakesHalfAnAnswerForNone(Good):
    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        return Receipt((await self.send("POST", "/notes", json=dict(message.fields), lane="deliver")).json()["id"])


class ClaimsToBeSafe(Good):
    channels = (replace(NOTES, repeat=Repeat.SAFE),)


class FindsNobody(Good):
    channels = (replace(NOTES, repeat=Repeat.FIND),)


class RetriesRefusals(Good):
    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        try:
            return await super().deliver(channel, message)
        except RejectedError as error:
            raise TransientError(error.message) from None


class AsksWithAWrongParameter(Good):
    entities = (replace(ORDERS, pager=NextToken("next", param="after", size="size")),)


class OpenToken(AuthSettings):
    type: Literal["token"] = "token"
    token: str


class ShowsItsSecret(Good):
    auth_types = (OpenToken,)


class Lax(BaseModel):
    model_config = ConfigDict(extra="forbid")
    is_on: bool = False


class LaxConfig(Settings):
    parts: tuple[Lax, ...] = ()


class ConvertsWhatIsWritten(Good):
    Config = LaxConfig  # type: ignore[assignment]


DEFECTS: list[tuple[type[Good], str, tuple[Any, ...]]] = [
    (EndsOnAShortPage, "test_smaller_pages_than_asked_for_lose_nothing", ("orders",)),
    (EndsOnAShortPage, "test_an_empty_page_in_the_middle_loses_nothing", ("orders",)),
    (OpenBound, "test_equal_change_times_over_a_page_border_lose_nothing", ("orders",)),
    (NoOverlap, "test_the_lower_bound_is_closed_and_widened_by_the_overlap", ("orders",)),
    (ReadsEverything, "test_incremental_reads_what_changed_and_no_more", ("orders",)),
    (ReadsEverything, "test_a_watermark_from_the_future_reads_nothing_and_does_not_fail", ("orders",)),
    (TakesRefusedForEmpty, "test_a_refused_entity_is_never_an_empty_one", ("orders",)),
    (TakesRefusedForEmpty, "test_refused_in_the_middle_is_no_end", ("orders",)),
    (TakesBrokenForTheEnd, "test_a_broken_page_is_a_transient_error_and_the_read_resumes", ("orders", "500")),
    (
        TakesBrokenForTheEnd,
        "test_a_broken_page_is_a_transient_error_and_the_read_resumes",
        ("orders", "truncated JSON"),
    ),
    (TakesBrokenForTheEnd, "test_a_stall_ends_in_time", ("orders",)),
    (TakesBrokenForTheEnd, "test_a_long_wait_is_the_engines", ("orders",)),
    (VariesRecords, "test_reading_twice_gives_the_same_keys_and_hashes", ("orders",)),
    (MovesWatermarksEarly, "test_a_watermark_never_passes_what_was_not_read", ("orders",)),
    (ForgetsRecordsOnResume, "test_an_interrupted_read_resumes_from_every_position", ("orders", "full")),
    (TellsNoDeletions, "test_deletions_become_known_the_declared_way", ("orders",)),
    (BringsRecordsWithKeys, "test_keys_come_without_their_records", ("orders",)),
    (ListsKeysShort, "test_smaller_pages_than_asked_for_lose_no_key", ("orders",)),
    (ListsKeysShort, "test_an_empty_page_in_the_middle_loses_no_key", ("orders",)),
    (TakesRefusedKeysForNone, "test_refused_keys_are_never_no_keys", ("orders",)),
    (ListsOnlyNewKeys, "test_keys_are_those_of_a_full_read", ("orders",)),
    (ListsOnlyNewKeys, "test_what_is_gone_is_missed_and_what_returns_is_listed", ("orders",)),
    (ForgetsKeysOnResume, "test_an_interrupted_listing_sweeps_nothing_and_goes_on", ("orders",)),
    (SaysTheSecret, "test_probe_with_a_wrong_credential", ()),
    (SeesNothingMissing, "test_probe_says_what_is_missing", ()),
    (SeesNothingMissing, "test_probe_with_a_wrong_credential", ()),
    (RepeatsBlindly, "test_a_lost_answer_is_ambiguous_and_not_repeated_blindly", ("note",)),
    (TakesHalfAnAnswerForNone, "test_half_an_answer_is_not_repeated_blindly", ("note",)),
    (ClaimsToBeSafe, "test_a_safe_channel_sent_twice_does_no_more_than_once", ("note",)),
    (FindsNobody, "test_what_arrived_is_found", ("note",)),
    (FindsNobody, "test_channels_are_whole", ()),
    (RetriesRefusals, "test_a_refusal_is_final", ("note", 400)),
    (AsksWithAWrongParameter, "test_a_full_read_brings_every_record", ("orders",)),
    (ConvertsWhatIsWritten, "test_secrets_are_marked_and_settings_closed", ()),
    (ShowsItsSecret, "test_secrets_are_marked_and_settings_closed", ()),
    (ShowsItsSecret, "test_every_auth_type_has_an_example_and_every_alias_works", ()),
]


@pytest.mark.parametrize(("connector", "check", "of"), DEFECTS, ids=lambda v: getattr(v, "__name__", None))
async def test_a_defect_is_caught(connector: type[Good], check: str, of: tuple[Any, ...]) -> None:
    class Suite(Conformance):
        case = ShopCase(connector)

    with pytest.raises((AssertionError, RejectedError, pytest.fail.Exception)):
        await getattr(Suite(), check)(*of)


async def test_a_heavy_import_is_caught(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_connector.py").write_text("import httpx\n")
    monkeypatch.syspath_prepend(tmp_path)
    connector = type("Heavy", (Good,), {"__module__": "heavy_connector"})
    __import__("heavy_connector")

    class Suite(Conformance):
        case = ShopCase(connector)

    with pytest.raises(pytest.fail.Exception, match="imports a heavy library"):
        await Suite().test_importing_it_imports_no_heavy_library()
