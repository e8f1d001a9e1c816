"""What connectors and `plan` import must stay light: no HTTP library comes along."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["contract", "rest", "auth", "paging", "http", "network", "guard", "budget", "redact"]
)
def test_no_http_library_is_imported(module: str) -> None:
    code = (
        f"import sys, reconciler.sdk.{module}; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in {'httpx', 'httpcore', 'h11', 'anyio'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
