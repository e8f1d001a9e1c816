"""Whether anybody produces the events that synchronizations wait for: a mistyped event type would wait for ever, unseen.

In: by name, what the events of each integration can be about (its subjects) and what its synchronizations wait for. Out:
warnings. Called by `name_index`, when names, links or subjects moved. Only what is certain is said: nothing where a producer
is broken, or where values that only the daemon knows decide what it reads.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from reconciler.desired.crosscheck import Claim, CrossProblem, Links
from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean
from reconciler.model.event import Lifecycle
from reconciler.model.finding import Code, Severity
from reconciler.model.ids import Ref

Claims = Mapping[Ref, tuple[Claim, ...]]
Subjects = Mapping[Ref, tuple[str, ...] | None]
LIFECYCLE_SUBJECTS = tuple(dict.fromkeys(one.partition(".")[0] for one in Lifecycle))
_NEAR = 0.75


def is_lifecycle(event_type: str) -> bool:
    """An event of an integration itself, which every one of them produces."""
    return any(fnmatchcase(one, event_type) for one in Lifecycle)


def event_problems(
    claims: Claims, links: Mapping[Ref, Links], subjects: Subjects, only: Iterable[Ref] | None = None
) -> Iterator[CrossProblem]:
    """`only` are the names whose synchronizations are looked at; without it, all."""
    chosen = links if only is None else {ref: links[ref] for ref in only if ref in links}
    waiting = {ref: link for ref, link in chosen.items() if link.awaits}
    towns = _towns({ref.workspace for ref in waiting}, claims, subjects) if waiting else {}
    for ref, link in waiting.items():
        named: Mapping[Path, tuple[Ref, ...]] = {
            ("spec", "synchronizations", index, "event_type"): sources for index, sources in link.sources
        }
        for path, event_type in link.awaits:
            sources = named.get(path, ())
            produced = _of_named(sources, subjects) if sources else towns[ref.workspace].others(subjects.get(ref))
            if produced is not None and not any(fnmatchcase(s, event_type.partition(".")[0]) for s in produced):
                yield CrossProblem(ref=ref, claim=claims[ref][0], problem=_problem(path, event_type, sources, produced))


@dataclass(slots=True)
class _Town:
    """What the integrations of a workspace produce: each subject with the number of its producers."""

    names: int = 0
    subjects: Counter[str] = field(default_factory=Counter)
    unknown: int = 0

    def others(self, own: tuple[str, ...] | None) -> Collection[str] | None:
        """All but one of them; None where that is not known of each, or there is no other yet."""
        mine = own or ()
        is_known = self.names > 1 and self.unknown == (own is None)
        return [s for s, count in self.subjects.items() if count > (s in mine)] if is_known else None


def _towns(workspaces: Collection[str], claims: Claims, subjects: Subjects) -> dict[str, _Town]:
    towns = {name: _Town() for name in workspaces}
    for ref in claims:
        town = towns.get(ref.workspace)
        if town is not None:
            own = subjects.get(ref)
            town.names += 1
            town.unknown += own is None
            town.subjects.update(own or ())
    return towns


def _of_named(sources: Iterable[Ref], subjects: Subjects) -> Collection[str] | None:
    found = [subjects.get(ref) for ref in sources]
    return None if None in found else {s for own in found for s in own or ()}


def _problem(path: Path, event_type: str, sources: tuple[Ref, ...], produced: Collection[str]) -> Problem:
    subject, _, verb = event_type.partition(".")
    near = difflib.get_close_matches(subject, produced, 1, _NEAR)
    known = [f"{one}.*" for one in (*produced, *LIFECYCLE_SUBJECTS)]
    remedy = f"did you mean {near[0]}.{verb}?" if near else did_you_mean("", known, "there are")
    who = ", ".join(ref.name for ref in sources) if sources else "no other integration of this workspace"
    does = f"{who} {'produces' if len(sources) < 2 else 'produce'}{' no' if sources else ''} {event_type}"
    return Problem(
        path,
        Code.UNKNOWN_EVENT,
        f"{does}: only what is published over the API would be delivered",
        remedy,
        severity=Severity.WARNING,
    )
