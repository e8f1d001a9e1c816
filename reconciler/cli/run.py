"""`reconciler run`: the daemon. Stays until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--observe", action="store_true", help="plan and report, but change, sync and send nothing")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags that stand for the daemon's settings; `--config` names a file with all of them."""
    parser.add_argument("--config", type=Path, help="settings file (YAML)")
    parser.add_argument("--repo", help="where the manifests are: path, file://, https://, ssh://")
    parser.add_argument("--ref", help="branch, tag or commit")
    parser.add_argument("--path", help="sub-folder with the manifests")
    parser.add_argument("--state-dir", type=Path, help="folder for what must survive")
    parser.add_argument("--listen", help="address of metrics, health and status, e.g. 127.0.0.1:8750")
    parser.add_argument("--log-format", choices=("console", "json"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))


def settings_of(args: argparse.Namespace) -> Any:
    """The settings of this invocation; raises SettingsError."""
    from reconciler.settings import load_settings

    flags = {
        "source.url": args.repo,
        "source.ref": args.ref if args.repo else None,
        "source.path": args.path if args.repo else None,
        "state_dir": args.state_dir,
        "listen": args.listen,
        "log.format": args.log_format,
        "log.level": args.log_level,
    }
    return load_settings(os.environ, args.config, flags)


def run(args: argparse.Namespace) -> int:
    from reconciler.desired.sops.errors import SopsError
    from reconciler.settings import SettingsError
    from reconciler.store.errors import StoreError

    try:
        settings = settings_of(args)
        if not settings.sources:
            raise SettingsError("no source of manifests; give --repo, RECONCILER_REPO or sources in the settings file")
        from reconciler.app.daemon import Daemon, run_until_signal
        from reconciler.app.logging import configure as configure_log

        daemon = Daemon(settings, os.environ, is_observing=args.observe)
        configure_log(settings.log, daemon.redactor)
        asyncio.run(run_until_signal(daemon))
    except (SettingsError, StoreError, SopsError, OSError) as error:
        print(f"reconciler run: {error}", file=sys.stderr)
        return 1
    return 0
