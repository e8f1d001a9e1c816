"""`reconciler` whose right to lead lasts long: `python -m tests.e2e.unhurried run ...`. For what the lease is no matter of."""

import sys
from datetime import timedelta

from reconciler.app import leadership
from reconciler.cli.main import main

if __name__ == "__main__":
    vars(leadership)["LENGTH"] = timedelta(
        seconds=80
    )  # one that lasts longer than `leases.IMPOSSIBLE` is taken for none
    sys.exit(main(sys.argv[1:]))
