"""What can be wrong between manifests: names taken twice, dependencies that do not exist or go round in circles.

In: for each name where it is claimed and what it links to. Out: findings, by the name they concern. Called by `validate`,
and only when names or links changed: one edited value in 10,000 files costs nothing here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean
from reconciler.model.finding import Code
from reconciler.model.ids import Ref


@dataclass(frozen=True, slots=True)
class Claim:
    """A document that says it is this integration. Soft: a file that cannot be read now, but held the name before."""

    file: str
    document: int
    line: int
    is_soft: bool = False


@dataclass(frozen=True, slots=True)
class Links:
    """What one manifest refers to: `depends_on`, per synchronization its `from`, and event types it `awaits`, by their places.

    All are of its own workspace; events of integrations themselves are not among those awaited.
    """

    depends_on: tuple[Ref, ...] = ()
    sources: tuple[tuple[int, tuple[Ref, ...]], ...] = ()
    awaits: tuple[tuple[Path, str], ...] = ()
    every: frozenset[Ref] = frozenset()


def make_links(
    depends_on: tuple[Ref, ...],
    sources: tuple[tuple[int, tuple[Ref, ...]], ...],
    awaits: tuple[tuple[Path, str], ...] = (),
) -> Links | None:
    """None where nothing is named, as in most manifests."""
    every = frozenset(depends_on).union(*(refs for _, refs in sources))
    return Links(depends_on, sources, awaits, every) if every or awaits else None


@dataclass(frozen=True, slots=True)
class CrossProblem:
    claim: Claim
    ref: Ref
    problem: Problem


def duplicate_problems(ref: Ref, claims: tuple[Claim, ...]) -> Iterator[CrossProblem]:
    """One problem per place; each names the others."""
    hard = [claim for claim in claims if not claim.is_soft]
    if len(hard) < 2:
        return
    for claim in hard:
        others = ", ".join(f"{other.file}:{other.line}" for other in hard if other is not claim)
        message = f"the integration {ref} is also defined in {others}"
        remedy = "rename one of them, or remove it"
        yield CrossProblem(claim, ref, Problem(("metadata", "name"), Code.DUPLICATE_NAME, message, remedy))


def link_problems(
    claims: Mapping[Ref, tuple[Claim, ...]], links: Mapping[Ref, Links], only: Iterable[Ref] | None = None
) -> Iterator[CrossProblem]:
    """Links to names that nobody claims, and circles. Claimed but broken names count: they come back.

    `only` are the names whose links are looked at, and what can be reached from them; without it, all.
    """
    chosen = links if only is None else {ref: links[ref] for ref in only if ref in links}
    for ref, link in chosen.items():
        yield from _missing(ref, claims[ref][0], link, claims)
    for circle in circles(_edges(links, chosen)):
        yield from (_circle_problem(ref, claims[ref][0], circle, links[ref]) for ref in circle)


def _edges(links: Mapping[Ref, Links], chosen: Mapping[Ref, Links]) -> dict[Ref, tuple[Ref, ...]]:
    edges: dict[Ref, tuple[Ref, ...]] = {}
    pending = list(chosen)
    while pending:
        ref = pending.pop()
        if ref not in edges and ref in links and links[ref].depends_on:
            edges[ref] = links[ref].depends_on
            pending += edges[ref]
    return edges


def _missing(ref: Ref, claim: Claim, link: Links, claims: Mapping[Ref, tuple[Claim, ...]]) -> Iterator[CrossProblem]:
    named: list[tuple[Path, Ref]] = [(("spec", "depends_on", place), to) for place, to in enumerate(link.depends_on)]
    for index, sources in link.sources:
        named += [(("spec", "synchronizations", index, "from", place), to) for place, to in enumerate(sources)]
    for path, target in named:
        if target not in claims:
            known = [other.name for other in claims if other.workspace == ref.workspace and other != ref]
            message = f"there is no integration {target.name} in the workspace {ref.workspace}"
            remedy = did_you_mean(target.name, known, "there are")
            yield CrossProblem(claim, ref, Problem(path, Code.INVALID_REFERENCE, message, remedy))


def _circle_problem(ref: Ref, claim: Claim, circle: tuple[Ref, ...], link: Links) -> CrossProblem:
    start = circle.index(ref)
    order = [one.name for one in (*circle[start:], *circle[:start], ref)]
    message = f"depends_on goes round in a circle: {' -> '.join(order)}"
    place = link.depends_on.index(circle[(start + 1) % len(circle)])
    path: Path = ("spec", "depends_on", place)
    return CrossProblem(claim, ref, Problem(path, Code.DEPENDENCY_CYCLE, message, "remove one of these dependencies"))


def circles(edges: Mapping[Ref, tuple[Ref, ...]]) -> list[tuple[Ref, ...]]:
    """Disjoint circles, each in the order of its edges; every name that is on some circle and not behind one is in one."""
    # Numbers instead of names: hashing a name at every step would be most of the cost of 10,000.
    names = sorted(edges)
    numbers = {ref: number for number, ref in enumerate(names)}
    left = _without_ends([[numbers[to] for to in edges[ref] if to in numbers] for ref in names])
    found: list[tuple[Ref, ...]] = []
    while left:
        circle = _walk(left)
        found.append(tuple(names[number] for number in circle))
        rest = {number: targets for number, targets in left.items() if number not in circle}
        left = _without_ends([rest.get(number, []) for number in range(len(names))])
    return found


def _without_ends(targets: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """What remains when all that depends on nothing (left) is taken away, again and again: empty without circles."""
    open_count = [len(each) for each in targets]
    dependents: list[list[int]] = [[] for _ in targets]
    for number, each in enumerate(targets):
        for target in each:
            dependents[target].append(number)
    ready = [number for number, count in enumerate(open_count) if count == 0]
    for done in ready:
        for number in dependents[done]:
            open_count[number] -= 1
            if open_count[number] == 0:
                ready.append(number)
    return {
        number: [target for target in each if open_count[target]]
        for number, each in enumerate(targets)
        if open_count[number]
    }


def _walk(edges: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Following first edges must come back somewhere, since every name here has one."""
    seen: dict[int, int] = {}
    here = min(edges)
    while here not in seen:
        seen[here] = len(seen)
        here = edges[here][0]
    return tuple(number for number, place in seen.items() if place >= seen[here])
