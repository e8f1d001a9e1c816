"""The desired states of several sources as one. A name that two sources claim is held: neither may change it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration, DesiredState


@dataclass(frozen=True, slots=True)
class Merged:
    """`twice` are the names that more than one source claims."""

    state: DesiredState
    twice: frozenset[Ref] = frozenset()


def merge(
    states: Mapping[str, DesiredState], before: Merged | None = None, touched: Collection[Ref] | None = None
) -> Merged:
    """Complete only if every source is. With one source it is that source's state itself.

    `before` is the merger from which only `touched` may differ; None where any name may.
    """
    if len(states) == 1:
        return Merged(next(iter(states.values())))
    if before is None or touched is None:
        before, touched = None, {ref for state in states.values() for ref in state.integrations}
    claims = {ref: [state for state in states.values() if ref in state.integrations] for ref in touched}
    twice = {ref for ref in (before.twice if before else ()) if ref not in claims}
    twice |= {ref for ref, claiming in claims.items() if len(claiming) > 1}
    base = next(iter(states.values()))
    held = twice.union(*(state.held for state in states.values()))
    merged = replace(
        base,
        revision=" ".join(f"{name}@{state.revision}" for name, state in states.items()),
        integrations=_integrations(before, claims),
        workspaces={n: w for state in states.values() for n, w in state.workspaces.items()},
        findings=tuple(_findings(states.values(), twice)),
        held=frozenset(held),
        is_complete=all(state.is_complete for state in states.values()),
    )
    return Merged(merged, frozenset(twice))


def _integrations(before: Merged | None, claims: Mapping[Ref, list[DesiredState]]) -> Mapping[Ref, DesiredIntegration]:
    """The first source that claims a name has it."""
    if before is not None and not claims:
        return before.state.integrations
    integrations = dict(before.state.integrations) if before else {}
    for ref, claiming in claims.items():
        if claiming:
            integrations[ref] = claiming[0].integrations[ref]
        else:
            integrations.pop(ref, None)
    return integrations


def _findings(states: Iterable[DesiredState], twice: Iterable[Ref]) -> Iterator[Finding]:
    firsts: dict[Ref, DesiredIntegration] = {}
    ordered = sorted(twice)
    for state in states:
        yield from state.findings
        for ref in ordered:
            desired = state.integrations.get(ref)
            if desired is not None and ref in firsts:
                first = firsts[ref].origin
                yield _twice(ref, desired, f"{first.source}:{first.file}:{first.line}")
            elif desired is not None:
                firsts[ref] = desired


def _twice(ref: Ref, desired: DesiredIntegration, elsewhere: str) -> Finding:
    origin = desired.origin
    message = f"the integration {ref} is also defined in source {elsewhere}"
    remedy = "remove it from one of the sources"
    return Finding(origin.file, origin.line, 1, Code.DUPLICATE_NAME, message, remedy, workspace=ref.workspace)
