"""`reconciler plan`: what a revision would change. Exit code: 1 error, else 3 blocked, else 2 changes, else 0."""

import argparse
import os
import sys
from pathlib import Path

from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import add_server, answered, client_of
from reconciler.cli.store_access import CommandError, location, state_dir


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="repository or folder (default: here)")
    parser.add_argument("--path", default="", metavar="FOLDER", help="sub-folder that holds the manifests")
    parser.add_argument(
        "--base", metavar="REF", help="compare with this revision (default: with what a daemon applied)"
    )
    parser.add_argument("--head", metavar="REF", help="the revision to look at (default: the files as they are)")
    add_output(parser, ("text", "json", "markdown"))
    parser.add_argument("--no-cache", action="store_true", help="parse every file anew")
    add_state_dir(parser)
    add_server(parser, "what is pending at this daemon, or with --head what a revision of its repository would change")
    examples(
        parser,
        "reconciler plan                              the files here against what the daemon applied",
        "reconciler plan --base origin/main           what a merge will do; needs no state and no key",
        "reconciler plan --server https://reconciler.example.org --head feature",
        "reconciler plan --base HEAD~1 --head HEAD --output markdown",
        exits="0 nothing would change, 2 something would, 3 a removal is blocked, 1 error",
    )


def run(args: argparse.Namespace) -> int:
    return _at_server(args) if args.server else _offline(args)


@answered
def _at_server(args: argparse.Namespace) -> int:
    """Not for RECONCILER_URL alone: what a pull request would change is planned without any server."""
    from reconciler.cli.change_shown import plan_of
    from reconciler.plan.render import exit_code, render

    for option, value in (("--base", args.base), ("--path", args.path), ("--state-dir", args.state_dir)):
        if value:
            raise CommandError(f"{option} is for files here; a server compares with what it applied")
    with client_of(args) as client:
        shown = client.plan.of({"revision": args.head}) if args.head else client.plan.pending()
    plan = plan_of(shown)
    sys.stdout.write(render(plan, args.output))
    return exit_code(plan)


def _offline(args: argparse.Namespace) -> int:
    from reconciler.app.offline import NOTHING_APPLIED, Offline, applied_state
    from reconciler.desired.source_error import SourceError
    from reconciler.plan.render import exit_code, render
    from reconciler.store.errors import StoreError

    cache = None if args.no_cache else _cache_folder()
    offline = Offline(args.repo, args.path, cache)
    try:
        if args.base is not None:
            plan = offline.plan_between(args.base, args.head)
        else:
            applied = applied_state(location(args))
            if applied is None:
                print(f"nothing was applied yet by a daemon with state in {state_dir(args)}", file=sys.stderr)
            plan = offline.plan_against(applied or NOTHING_APPLIED, args.head)
    except (CommandError, SourceError, StoreError, OSError) as error:
        print(f"reconciler plan: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(render(plan, args.output))
    return exit_code(plan)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "reconciler"
