"""`reconciler migrate`: the tables as this release needs them, before its daemons start. For pipelines; may be run again."""

import argparse
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.options import add_state_dir, examples
from reconciler.cli.store_access import guarded, location

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reconciler.store.location import Location
    from reconciler.store.migrations import Migrated


def configure(parser: argparse.ArgumentParser) -> None:
    add_state_dir(parser)
    examples(
        parser,
        "RECONCILER_DATABASE_URL_FILE=/etc/reconciler/database-url reconciler migrate",
        "reconciler migrate --state-dir /var/lib/reconciler",
        exits="0 the schema is that of this release, or newer and fit for it; 1 it is not, see the message",
    )


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.store.location import backend

    place = location(args)
    store = backend(place)
    print(f"{store.where}: {_said(_migrate(place))}")
    return 0


def _migrate(place: "Location") -> "Migrated":
    """A state directory is one daemon's: while it works, its release decides. Processes on PostgreSQL work on."""
    from reconciler.store.location import backend, open_readonly
    from reconciler.store.migrations import Migrated, apply, migrations, refuse_newer, schema_version
    from reconciler.store.state_directory import StateDirectory

    known = migrations()
    store = backend(place)
    if isinstance(place, Path) and place.is_file():
        with open_readonly(place) as tx:
            refuse_newer(tx, known[-1].number, store.where)
            found = schema_version(tx)
        if found >= known[-1].number:
            return Migrated(found, found)
    lock: AbstractContextManager[object] = StateDirectory(place.parent) if isinstance(place, Path) else nullcontext()
    with lock, closing(store.connect(is_reader=False)) as session:
        return session.run(lambda tx: apply(tx, known, store.where), "guarded")


def _said(done: "Migrated") -> str:
    from reconciler.store.migrations import migrations

    ours = migrations()[-1].number
    if done.before < done.after:
        before = f"version {done.before}" if done.before else "no tables"
        return f"brought from {before} to schema version {done.after}"
    if done.after > ours:
        return f"schema version {done.after} is newer than this release's {ours}, which may work on it; nothing to do"
    return f"schema version {done.after}, nothing to do"
