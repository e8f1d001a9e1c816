"""`reconciler run`: the daemon. Stays until SIGTERM or Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from reconciler.cli.options import examples

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("console", "json")
ROLES = ("all", "controller", "worker", "api")
MOST_FILES = 65_536


def configure(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    listen = "address of metrics, health and status (default: 127.0.0.1:8750; '' for none)"
    parser.add_argument("--listen", metavar="HOST:PORT", help=listen)
    cert = "serve TLS with this certificate, PEM; read again when the file changes"
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help=cert)
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="its key, PEM (default: in the certificate's file)"
    )
    role = "all (default), controller, worker or api: several processes share the work on PostgreSQL"
    parser.add_argument("--role", choices=ROLES, metavar="ROLE", help=role)
    parser.add_argument("--observe", action="store_true", help="plan and report, but change, sync and send nothing")
    examples(
        parser,
        "reconciler run --repo .",
        "reconciler run --repo https://git.example.org/integrations.git --ref main --path integrations",
        "reconciler run --config /etc/reconciler.yaml --observe",
    )


def add_settings(parser: argparse.ArgumentParser, level: str = "info") -> None:
    """Flags that stand for the daemon's settings; `--config` names a file with all of them. `level` is the log's default."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, in YAML (default: $RECONCILER_CONFIG)")
    repo = "where the manifests are: path, file://, https:// or ssh:// (default: $RECONCILER_REPO, else as in --config)"
    parser.add_argument("--repo", metavar="PLACE", help=repo)
    parser.add_argument("--ref", metavar="REF", help="with --repo: branch, tag or commit (default: its HEAD)")
    parser.add_argument("--path", metavar="FOLDER", help="with --repo: sub-folder that holds the manifests")
    place = "$RECONCILER_STATE_DIR, else ~/.local/state/reconciler, for root /var/lib/reconciler"
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help=f"for what must survive (default: {place})")
    parser.add_argument("--log-format", choices=FORMATS, metavar="FORM", help="console (default) or json")
    parser.add_argument("--log-level", choices=LEVELS, metavar="LEVEL", help=f"{', '.join(LEVELS)} (default: {level})")


def settings_of(args: argparse.Namespace) -> Any:
    """The settings of this invocation; raises SettingsError."""
    from reconciler.settings import SettingsError, load_settings

    if (args.ref or args.path) and not (args.repo or os.environ.get("RECONCILER_REPO")):
        raise SettingsError("--ref and --path say more about --repo; give that too")
    flags = {
        "source.url": args.repo,
        "source.ref": args.ref,
        "source.path": args.path,
        "state_dir": args.state_dir,
        "role": vars(args).get("role"),
        "listen": vars(args).get("listen"),
        "tls.cert_file": vars(args).get("tls_cert"),
        "tls.key_file": vars(args).get("tls_key"),
        "log.format": args.log_format,
        "log.level": args.log_level,
    }
    return load_settings(os.environ, args.config, flags)


def run(args: argparse.Namespace) -> int:
    import asyncio

    from reconciler.settings import SettingsError
    from reconciler.store.errors import StoreError

    try:
        settings = settings_of(args)
        if not settings.sources and settings.role != "api":
            raise SettingsError("no source of manifests; give --repo, RECONCILER_REPO or sources in the settings file")
        from reconciler.app.daemon import Daemon
        from reconciler.app.logging import configure as configure_log
        from reconciler.app.until_signal import run_until_signal

        daemon = Daemon(settings, os.environ, is_observing=args.observe)
        configure_log(settings.log, daemon.redactor)
        permit_files()
        return 0 if asyncio.run(run_until_signal(daemon)) else 1
    except (SettingsError, StoreError, OSError) as error:
        print(f"reconciler run: {error}", file=sys.stderr)
        return 1


def permit_files() -> None:
    """Many open files, as far as the system lets us: the usual 1,024 is meant for programs that call select()."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
