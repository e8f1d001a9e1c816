"""`reconciler test NAME`: sign in now and tell who we are there, what we may do and what is missing.

Reads the manifests as the settings say (with `--repo .` the files as they lie here) and needs the daemon's keys, not the
daemon. Exit code: 0, or 1 when the probe fails or something is missing that this manifest uses.
"""

import argparse
import asyncio
import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import add_name, add_output, examples
from reconciler.cli.run import add_settings, settings_of
from reconciler.cli.store_access import CommandError, guarded, match_ref

if TYPE_CHECKING:
    from reconciler.app.probe_once import Known, ProbeReport
    from reconciler.model.ids import Ref
    from reconciler.sdk.contract import Probe


SHOWN_FINDINGS = 3
EXITS = "0 signed in, nothing is missing; 1 the probe failed, or a right is missing that the manifest needs"


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    add_settings(parser, level="error")
    add_output(parser)
    examples(
        parser, "reconciler test --repo . servicenow-prod", "reconciler test servicenow-prod --output json", exits=EXITS
    )


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.desired.sops.errors import SopsError
    from reconciler.desired.source_error import SourceError
    from reconciler.settings import SettingsError

    args.log_level = args.log_level or "error"
    try:
        report = asyncio.run(_probe(args))
    except (SettingsError, SourceError, SopsError, OSError) as error:
        raise CommandError(str(error)) from None
    print(json.dumps(as_json(report), indent=2) if args.output == "json" else as_text(report))
    return 0 if report.is_good else 1


async def _probe(args: argparse.Namespace) -> "ProbeReport":
    from reconciler.app.logging import configure as configure_log
    from reconciler.app.probe_once import probe_once
    from reconciler.sdk.redact import Redactor
    from reconciler.settings import SettingsError

    settings = settings_of(args)
    if not settings.sources:
        raise SettingsError("no source of manifests; give --repo, RECONCILER_REPO or sources in the settings file")
    redactor = Redactor()
    configure_log(settings.log, redactor)
    return await probe_once(settings, os.environ, lambda known: _pick(known, args.name), redactor)


def _pick(known: "Known", name: str) -> "Ref":
    ref = match_ref({*known.refs, *known.held}, name)
    if ref in known.refs:
        return ref
    wrong = "; ".join(map(str, known.findings[:SHOWN_FINDINGS]))
    more = f"; and {len(known.findings) - SHOWN_FINDINGS} more" if len(known.findings) > SHOWN_FINDINGS else ""
    raise CommandError(f"{ref} has no valid manifest; what is wrong in Git: {wrong}{more}")


def as_json(report: "ProbeReport") -> dict[str, Any]:
    """The stable form."""
    failed = {"reason": report.reason, "message": report.error} if report.reason else None
    shown: dict[str, Any] = {
        "integration": str(report.ref),
        "type": report.type,
        "file": report.file,
        "line": report.line,
        "revision": report.revision,
        "ok": report.is_good,
        "error": failed,
        "missing": list(report.needed),
    }
    return shown | (_probe_json(report.probe, report.latency) if report.probe else {})


def _probe_json(probe: "Probe", latency: timedelta | None) -> dict[str, Any]:
    expires = probe.credential_expires_at
    return {
        "identity": probe.identity,
        "account": probe.account or None,
        "version": probe.version or None,
        "latency_ms": _milliseconds(latency),
        "clock_skew_ms": _milliseconds(probe.skew),
        "credential_expires_at": expires.isoformat() if expires else None,
        "rights": [{"name": r.name, "granted": r.is_granted, "detail": r.detail or None} for r in probe.rights],
        "entities": dict(probe.entities),
        "warnings": list(probe.warnings),
    }


def _milliseconds(span: timedelta | None) -> float | None:
    return None if span is None else round(span / timedelta(milliseconds=1), 1)


def as_text(report: "ProbeReport") -> str:
    """For a person: the good news first, what is missing last."""
    head = f"{report.ref} ({report.type}), {report.file}:{report.line} at {report.revision[:12]}"
    if report.probe is None:
        findings = [f"  {f}" for f in report.findings[1:]]
        return "\n".join([head, f"failed: {report.reason}: {report.error}", *findings])
    lines = [head, *_identity(report.probe), *_times(report), *_rights(report), *_entities(report)]
    lines += [f"warning: {text}" for text in report.probe.warnings]
    lines.append(f"missing: {', '.join(report.needed)}" if report.needed else "ok")
    return "\n".join(lines)


def _identity(probe: "Probe") -> list[str]:
    account = f" at {probe.account}" if probe.account else ""
    version = f", version {probe.version}" if probe.version else ""
    return [f"signed in as {probe.identity}{account}{version}"]


def _times(report: "ProbeReport") -> list[str]:
    said = [f"probed in {_milliseconds(report.latency)} ms"]
    probe = report.probe
    if probe is not None and probe.skew is not None:
        ahead = "ahead" if probe.skew >= timedelta() else "behind"
        said.append(f"its clock is {abs(probe.skew).total_seconds():.1f} s {ahead}")
    if probe is not None and probe.credential_expires_at is not None:
        said.append(f"the credential expires {probe.credential_expires_at.isoformat()}")
    return ["; ".join(said)]


def _rights(report: "ProbeReport") -> list[str]:
    words = {True: "granted", False: "missing", None: "unknown"}
    lines = []
    for right in report.probe.rights if report.probe else ():
        unused = " (not used by this manifest)" if right.is_granted is False and right.name not in report.needed else ""
        detail = f"  {right.detail}" if right.detail else ""
        lines.append(f"  {words[right.is_granted]:<8} {right.name}{unused}{detail}")
    return ["rights:", *lines] if lines else []


def _entities(report: "ProbeReport") -> list[str]:
    lines = []
    for name, ok in report.probe.entities.items() if report.probe else ():
        unused = "" if ok or f"read {name}" in report.needed else " (not used by this manifest)"
        lines.append(f"  {'readable' if ok else 'not readable':<12} {name}{unused}")
    return ["entities:", *lines] if lines else []
