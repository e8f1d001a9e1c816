"""Shipped to connector authors: the conformance kit and the base of vendor simulators. Begin at `conformance`."""

import sys

# Without pytest (a simulator in a demo) there is nothing to do; with it, failed checks explain themselves.
if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{part}" for part in ("declaring", "delivering", "enduring", "reading", "subscribing", "trial"))
    )
