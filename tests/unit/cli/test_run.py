"""`reconciler run` before it starts anything."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from reconciler.cli.run import permit_files
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
permit_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 2048, 2048), (2048, 2048, 2048)])
def test_files_are_permitted_up_to_the_hard_limit(soft: int, hard: int, then: int) -> None:
    line = (sys.executable, "-c", SCRIPT.format(soft=soft, hard=hard))
    assert int(subprocess.run(line, check=True, capture_output=True, text=True).stdout) == then
