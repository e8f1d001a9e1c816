"""The desired states of several sources as one. A name that two sources claim is held: neither may change it."""

from collections.abc import Mapping
from dataclasses import replace

from reconciler.model.finding import Code, Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration, DesiredState


def merge(states: Mapping[str, DesiredState]) -> DesiredState:
    """Complete only if every source is. With one source it is that source's state itself."""
    if len(states) == 1:
        return next(iter(states.values()))
    integrations: dict[Ref, DesiredIntegration] = {}
    findings: list[Finding] = []
    held: set[Ref] = set()
    for state in states.values():
        findings += state.findings
        held |= state.held
        for ref, desired in state.integrations.items():
            if ref in integrations:
                first = integrations[ref].origin
                findings.append(_twice(ref, desired, f"{first.source}:{first.file}:{first.line}"))
                held.add(ref)
            else:
                integrations[ref] = desired
    base = next(iter(states.values()))
    return replace(
        base,
        revision=" ".join(f"{name}@{state.revision}" for name, state in states.items()),
        integrations=integrations,
        workspaces={n: w for state in states.values() for n, w in state.workspaces.items()},
        findings=tuple(findings),
        held=frozenset(held),
        is_complete=all(state.is_complete for state in states.values()),
    )


def _twice(ref: Ref, desired: DesiredIntegration, elsewhere: str) -> Finding:
    origin = desired.origin
    message = f"the integration {ref} is also defined in source {elsewhere}"
    return Finding(origin.file, origin.line, 1, Code.DUPLICATE_NAME, message, "remove it from one of the sources")
