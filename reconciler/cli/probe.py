"""`reconciler test NAME`: sign in now and tell who we are there, what we may do and what is missing.

Reads the manifests as the settings say (with `--repo .` the files as they lie here) and needs the daemon's keys, not the
daemon; or a daemon does it, with --server. Exit code: 0, or 1 when the probe fails or something is missing that this manifest
uses.
"""

import argparse
import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import add_name, add_output, examples
from reconciler.cli.run import add_settings, settings_of
from reconciler.cli.server_access import add_server, asks_server
from reconciler.cli.store_access import CommandError, guarded, match_ref

if TYPE_CHECKING:
    from reconciler.app.probe_once import Known, ProbeReport
    from reconciler.control.trial import Trial
    from reconciler.model.ids import Ref
    from reconciler.sdk.contract import Probe


SHOWN_FINDINGS = 3
ELSEWHERE = (
    "let the daemon there probe, with the manifest that it has in force"
    " (default: $RECONCILER_URL, where none of --repo, --config and --state-dir is given)"
)
EXITS = "0 signed in, nothing is missing; 1 the probe failed, or a right is missing that the manifest needs"


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    add_settings(parser, level="error")
    add_output(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler test --repo . servicenow-prod",
        "reconciler test servicenow-prod --output json",
        "reconciler test servicenow-prod --server https://reconciler.example.org",
        exits=EXITS,
    )


@guarded
def run(args: argparse.Namespace) -> int:
    if _asks_server(args):
        from reconciler.cli import server_probe

        return server_probe.run(args)
    import asyncio

    from reconciler.desired.sops.errors import SopsError
    from reconciler.desired.source_error import SourceError
    from reconciler.settings import SettingsError

    args.log_level = args.log_level or "error"
    try:
        report = asyncio.run(_probe(args))
    except (SettingsError, SourceError, SopsError, OSError) as error:
        raise CommandError(str(error)) from None
    print(json.dumps(as_json(report), indent=2) if args.output == "json" else as_text(report))
    return 0 if report.trial.is_good else 1


def _asks_server(args: argparse.Namespace) -> bool:
    """Manifests that this line names are tried from here."""
    here = [f"--{option}" for option in ("repo", "config", "ref", "path") if vars(args)[option]]
    if here and args.server:
        raise CommandError(f"--server or {here[0]}: which one? A server tests what it has in force")
    return not here and asks_server(args)


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
    from reconciler.control.trial import probe_form

    trial = report.trial
    failed = {"reason": trial.reason, "message": trial.error} if trial.reason else None
    shown: dict[str, Any] = {
        "integration": str(report.ref),
        "type": report.type,
        "file": report.file,
        "line": report.line,
        "revision": report.revision,
        "ok": trial.is_good,
        "error": failed,
        "missing": list(trial.needed),
    }
    return shown | (probe_form(trial.probe, trial.latency) if trial.probe else {})


def as_text(report: "ProbeReport") -> str:
    """For a person: the good news first, what is missing last."""
    head, trial = f"{report.ref} ({report.type}), {report.file}:{report.line} at {report.revision[:12]}", report.trial
    if trial.probe is None:
        findings = [f"  {f}" for f in trial.findings[1:]]
        return "\n".join([head, f"failed: {trial.reason}: {trial.error}", *findings])
    probe = trial.probe
    lines = [head, *_identity(probe), *_times(trial, probe), *_rights(trial, probe), *_entities(trial, probe)]
    lines += [f"warning: {text}" for text in probe.warnings]
    lines.append(f"missing: {', '.join(trial.needed)}" if trial.needed else "ok")
    return "\n".join(lines)


def _identity(probe: "Probe") -> list[str]:
    account = f" at {probe.account}" if probe.account else ""
    version = f", version {probe.version}" if probe.version else ""
    return [f"signed in as {probe.identity}{account}{version}"]


def _times(trial: "Trial", probe: "Probe") -> list[str]:
    said = [f"probed in {round(trial.latency / timedelta(milliseconds=1), 1)} ms"] if trial.latency is not None else []
    if probe.skew is not None:
        ahead = "ahead" if probe.skew >= timedelta() else "behind"
        said.append(f"its clock is {abs(probe.skew).total_seconds():.1f} s {ahead}")
    if probe.credential_expires_at is not None:
        said.append(f"the credential expires {probe.credential_expires_at.isoformat()}")
    return ["; ".join(said)]


def _rights(trial: "Trial", probe: "Probe") -> list[str]:
    words = {True: "granted", False: "missing", None: "unknown"}
    lines = []
    for right in probe.rights:
        unused = " (not used by this manifest)" if right.is_granted is False and right.name not in trial.needed else ""
        detail = f"  {right.detail}" if right.detail else ""
        lines.append(f"  {words[right.is_granted]:<8} {right.name}{unused}{detail}")
    return ["rights:", *lines] if lines else []


def _entities(trial: "Trial", probe: "Probe") -> list[str]:
    lines = []
    for name, ok in probe.entities.items():
        unused = "" if ok or f"read {name}" in trial.needed else " (not used by this manifest)"
        lines.append(f"  {'readable' if ok else 'not readable':<12} {name}{unused}")
    return ["entities:", *lines] if lines else []
