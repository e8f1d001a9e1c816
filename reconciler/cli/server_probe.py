"""`reconciler test --server`: the daemon there probes with the spec that it has in force, and its answer is shown as any other.

Beside a probe from here it lacks findings: of a manifest that is not valid the server tests the last good one.
"""

import argparse
import json
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.cli.probe import as_json, as_text
from reconciler.cli.server_access import as_ref, client_of

if TYPE_CHECKING:
    from reconciler.api.integrations import IntegrationDetail
    from reconciler.api.trials import TestResult
    from reconciler.app.probe_once import ProbeReport
    from reconciler.sdk.contract import Probe


def run(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        one = client.integrations.get(as_ref(args.name))
        report = report_of(one, client.integrations.test(one.id))
    print(json.dumps(as_json(report), indent=2) if args.output == "json" else as_text(report))
    return 0 if report.trial.is_good else 1


def report_of(one: "IntegrationDetail", found: "TestResult") -> "ProbeReport":
    """What was found as it was before it became JSON."""
    from reconciler.app.probe_once import ProbeReport
    from reconciler.control.trial import Trial
    from reconciler.model.ids import Ref

    probe = _probe(found)
    trial = Trial(
        latency=_span(found.latency_ms),
        probe=probe,
        needed=tuple(found.missing),
        reason=found.reason if probe is None else None,
        error=(found.detail or "") if probe is None else "",
    )
    revision = one.revision.rpartition(":")[2]
    return ProbeReport(Ref(one.workspace, one.name), one.type, one.source.file, one.source.line, revision, trial)


def _probe(found: "TestResult") -> "Probe | None":
    """None where it did not come that far: a remote that lets us in says who we are."""
    from reconciler.sdk.contract import Probe, Right

    if found.identity is None:
        return None
    return Probe(
        identity=found.identity,
        account=found.account or "",
        rights=tuple(Right(right.name, right.granted, right.detail or "") for right in found.rights),
        entities=found.entities,
        skew=_span(found.clock_skew_ms),
        version=found.version or "",
        credential_expires_at=found.credential_expires_at,
        warnings=tuple(found.warnings),
    )


def _span(milliseconds: float | None) -> timedelta | None:
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)
