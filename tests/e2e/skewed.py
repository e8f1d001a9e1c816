"""`reconciler` on a machine whose clock is wrong: `python -m tests.e2e.skewed SECONDS run ...`."""

import sys
from datetime import datetime, timedelta

from reconciler.app import daemon
from reconciler.cli.main import main
from reconciler.model.clock import SystemClock


class Skewed(SystemClock):
    """Wrong by as much all the time; waiting takes as long as it should."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=float(sys.argv[1]))


if __name__ == "__main__":
    vars(daemon)["SystemClock"] = Skewed
    sys.exit(main(sys.argv[2:]))
