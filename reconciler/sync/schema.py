"""`spec.sync.schema`: fields of an entity's records that appear, vanish or change their type, as its pages are stored.

Only records that are new or changed are looked at: under `evolve` a sample of each page, under `reject` and `freeze` all. The
page commit hands them in and leaves out what is rejected; what was learned is stored, and a change told of as an event, in the
same transaction. An entity's first sync is held against nothing, nor is a run in which a person accepts what comes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from reconciler.model.event import Lifecycle
from reconciler.model.manifest import Fields
from reconciler.model.record import Reject
from reconciler.store import journal, run_entities
from reconciler.store.database import Tx
from reconciler.sync.shape import ENOUGH, Change, Gauge, Shape, changes, fields_of, grown, shape_of

SAMPLE = 100
MOST_TOLD = 200
MOST_NAMED = 5
Policy = Literal["evolve", "reject", "freeze"]


class SchemaFrozenError(Exception):
    """Records do not fit a schema that is frozen: the page was not stored."""

    def __init__(self, found: Sequence[Change]) -> None:
        super().__init__(named(found))


class SchemaWatch:
    """One entity of one run: `begin`, `look` and `keep` in the transaction of a page, `adopt` once it is committed."""

    def __init__(self, policy: Policy, shape: Shape, *, accepts: bool = False) -> None:
        self.policy = policy
        self._accepts = accepts
        self._gauge = Gauge(shape)
        self.begin()

    @property
    def _shape(self) -> Shape:
        return self._gauge.shape

    def begin(self) -> None:
        self._next = self._shape
        self.news: tuple[Change, ...] = ()

    def look(self, fresh: Sequence[tuple[str, bytes]]) -> tuple[Reject, ...]:
        """Which of these records are not taken. Raises SchemaFrozenError."""
        looked = _sampled(fresh) if self.policy == "evolve" else fresh
        unlike = [(key, payload, fields_of(payload)) for key, payload in looked if not self._gauge.fits(payload)]
        self._next = _counted(self._shape, len(looked))
        if self._accepts or not self._shape.is_settled:
            self._next = msgspec.structs.replace(self._next, told=[])
            self._learn([found for *_, found in unlike])
            return ()
        judged = [(key, payload, found, tuple(changes(self._shape, found))) for key, payload, found in unlike]
        wrong = [(key, payload, said) for key, payload, _, said in judged if said]
        every = sorted({change for *_, said in wrong for change in said})
        self.news = tuple(change for change in every if str(change) not in self._shape.told)
        if self.policy == "evolve":
            self._learn([found for _, _, found, _ in judged])
            return ()
        self._learn([found for _, _, found, said in judged if not said])
        self._next = msgspec.structs.replace(self._next, told=[*self._next.told, *map(str, self.news)][-MOST_TOLD:])
        if wrong and self.policy == "freeze":
            raise SchemaFrozenError(every)
        return tuple(_reject(*one) for one in wrong)

    def _learn(self, unlike: Sequence[dict[str, str]]) -> None:
        for found in unlike:
            self._next = grown(self._next, found)

    def keep(self, tx: Tx, integration_id: int, entity_id: int, at: str, told: dict[str, Any]) -> None:
        """What was learned, and the event of what changed; `told` is what it says besides."""
        if self._next != self._shape:
            run_entities.set_shape(tx, entity_id, _written(self._next))
        if self.news:
            journal.emit(
                tx, integration_id, Lifecycle.SCHEMA_CHANGED, at, {**told, "policy": self.policy, **_as_json(self.news)}
            )

    def adopt(self) -> None:
        if self._next != self._shape:
            self._gauge = Gauge(self._next)

    def settle(self, tx: Tx, entity_id: int, *, is_whole: bool) -> None:
        """The entity was read to its end: with enough seen, what differs from now on is a change."""
        shape = self._shape
        if not shape.is_settled and shape.looked and (is_whole or shape.looked >= ENOUGH):
            run_entities.set_shape(tx, entity_id, _written(msgspec.structs.replace(shape, is_settled=True)))


def watch(policy: Policy, stored: str, fields: Fields, *, accepts: bool) -> SchemaWatch:
    """`stored` is the shape as the store has it. Learned anew where `sync.fields` lets other fields through than then."""
    return SchemaWatch(policy, shape_of(stored, fields.model_dump_json()), accepts=accepts)


def named(found: Sequence[Change]) -> str:
    """The first few for a person."""
    more = len(found) - MOST_NAMED
    return ", ".join(map(str, found[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _sampled(fresh: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """At most SAMPLE of them, spread over all."""
    return fresh if len(fresh) <= SAMPLE else fresh[:: -(-len(fresh) // SAMPLE)]


def _counted(shape: Shape, looked: int) -> Shape:
    return msgspec.structs.replace(shape, looked=min(ENOUGH, shape.looked + looked)) if shape.looked < ENOUGH else shape


def _reject(key: str, payload: bytes, said: Sequence[Change]) -> Reject:
    first = said[0]
    return Reject(payload, tuple(map(str, said)), key, first.field, first.before, first.after)


def _written(shape: Shape) -> str:
    return msgspec.json.encode(shape).decode()


def _as_json(found: Sequence[Change]) -> dict[str, Any]:
    return {
        "appeared": [c.field for c in found if not c.before],
        "vanished": [c.field for c in found if not c.after],
        "retyped": [{"field": c.field, "before": c.before, "after": c.after} for c in found if c.before and c.after],
    }
