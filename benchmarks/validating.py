"""`reconciler validate` of a folder against check-jsonschema, which checks the same files against one JSON Schema.

check-jsonschema is installed into a virtual environment of the run's own folder; where that is not possible, and in quick
runs, the comparison is a bare loop that parses the files with PyYAML's C loader and checks nothing.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.manifests import write_manifests
from benchmarks.measure import Bench, ChildError, Spent, child, in_turn
from benchmarks.rows import Row
from reconciler.model.manifest import Integration

_BARE = """
import sys, yaml
from pathlib import Path
for path in Path(sys.argv[1]).rglob('*.yaml'):
    yaml.load(path.read_bytes(), yaml.CSafeLoader)
"""
_INSTALL_SECONDS = 180


def measure(bench: Bench) -> Iterator[Row]:
    count = bench.size(10_000, 100)
    folder = bench.folder / "validate"
    write_manifests(folder, count)
    peer = None if bench.is_quick else _check_jsonschema(bench)
    bench.python("-m", "reconciler", "validate", str(folder))
    runs = 2 if bench.is_quick else 3
    ours, bare = in_turn(
        runs,
        lambda: bench.python("-m", "reconciler", "validate", str(folder)),
        lambda: bench.python("-c", _BARE, str(folder)),
    )
    yield Row(
        name=f"validate of {count:,}",
        figure=ours.cpu,
        unit="s CPU",
        compared_with="bare PyYAML C loader",
        compared=bare.cpu,
        note=f"wall {ours.wall:.2f} s, peak {ours.rss_mb:.0f} MB",
    )
    if peer is None:
        return
    theirs = _check(bench, peer, folder)
    yield Row(
        name=f"validate of {count:,}",
        figure=ours.cpu,
        unit="s CPU",
        compared_with="check-jsonschema",
        compared=theirs.cpu,
        limit=0.1,
        limit_on="ratio",
    )


def _check_jsonschema(bench: Bench) -> Path | None:
    """The program, None where it cannot be installed."""
    place = bench.folder / "peer"
    try:
        subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True, timeout=_INSTALL_SECONDS)
        pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet", "check-jsonschema")
        subprocess.run(pip, check=True, capture_output=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError):
        print("check-jsonschema cannot be installed here: compared with a bare loop only", file=sys.stderr)
        return None
    return place / "bin" / "check-jsonschema"


def _check(bench: Bench, program: Path, folder: Path) -> Spent:
    schema = bench.folder / "schema.json"
    schema.write_text(json.dumps(Integration.model_json_schema(by_alias=True)))
    files = sorted(map(str, folder.rglob("*.yaml")))
    try:
        return child([str(program), "--schemafile", str(schema), *files], bench.env(), bench.folder)
    except ChildError as error:
        raise ChildError(str(error)[:500]) from None
