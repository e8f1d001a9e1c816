"""`reconciler apply`: fetch, plan, apply what is due, and exit: for pipelines and for those who want no daemon.

Exit code: 0 all is as Git wants it, 1 something failed, stalled or waits, 3 the guard blocked a removal, 130 after Ctrl-C.
"""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import TYPE_CHECKING, Any

from reconciler.cli.options import examples
from reconciler.cli.run import add_settings, settings_of
from reconciler.cli.store_access import CommandError, guarded
from reconciler.cli.times import span

if TYPE_CHECKING:
    from reconciler.app.once import Outcome
    from reconciler.model.plan import Plan

EXITS = "0 all is as Git wants it, 1 something failed, stalled or waits, 3 a removal is blocked"


def configure(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, level="error")
    parser.add_argument("--timeout", default="5m", metavar="DURATION", help="for the whole pass (default: 5m)")
    parser.add_argument("--approve", default="", metavar="DIGEST", help="allow the removals that a blocked plan named")
    parser.add_argument("--sync", action="store_true", help="wait for the syncs that begin, and fail where one does")
    examples(parser, "reconciler apply --repo .", "reconciler apply --config ci.yaml --sync --timeout 30m", exits=EXITS)


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.settings import SettingsError
    from reconciler.store.errors import StateLockedError

    patience = span(args.timeout, "--timeout")
    # the plan and the table are what is asked for; they tell what the daemon's own log would warn of
    args.log_level = args.log_level or "error"
    try:
        outcome = asyncio.run(_apply(_settings(args), args, patience))
    except StateLockedError as error:
        raise CommandError(f"{error}; a daemon applies by itself, at once with: reconciler reconcile --wait") from None
    except (SettingsError, OSError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        print("reconciler: interrupted; what is not done is due at the next start", file=sys.stderr)
        return 130
    _report(outcome)
    return outcome.exit_code


def _settings(args: argparse.Namespace) -> Any:
    from reconciler.settings import SettingsError

    settings = settings_of(args)
    if not settings.sources:
        raise SettingsError("no source of manifests; give --repo, RECONCILER_REPO or sources in the settings file")
    return settings.model_copy(update={"listen": "", "role": "all"})


async def _apply(settings: Any, args: argparse.Namespace, patience: timedelta) -> "Outcome":
    from reconciler.app.daemon import Daemon
    from reconciler.app.logging import configure as configure_log
    from reconciler.app.once import Pass, apply_once

    daemon = Daemon(settings, os.environ, stands_by=False)
    configure_log(settings.log, daemon.redactor)
    return await apply_once(daemon, Pass(patience, args.approve, args.sync, getuser()), _show)


def _show(plan: "Plan") -> None:
    from reconciler.plan.render import text

    sys.stdout.write(text(plan))
    sys.stdout.flush()


def _report(outcome: "Outcome") -> None:
    from reconciler.cli.status import table

    if outcome.stands:
        print()
        print(table([view for view, _ in outcome.stands], datetime.now(UTC)))
    for run in outcome.bad_runs:
        print(f"reconciler: {run.public_id} was {run.result}: {run.error or run.reason}", file=sys.stderr)
    if outcome.trouble:
        print(f"reconciler: {outcome.trouble}", file=sys.stderr)
