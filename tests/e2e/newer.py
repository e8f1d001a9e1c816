"""`reconciler` of a later release, one with more migrations: `python -m tests.e2e.newer FOLDER run ...`."""

import sys
from pathlib import Path

from reconciler.cli.main import main
from reconciler.store import migrations

if __name__ == "__main__":
    known = [*migrations.migrations(), *migrations.migrations(Path(sys.argv[1]))]
    vars(migrations)["migrations"] = lambda: known
    sys.exit(main(sys.argv[2:]))
