"""`reconciler schema [NAME] [--write DIR] [--api]`: the JSON Schemas of manifests, for editors and pull-request checks, and
the OpenAPI document.

In: what is installed. Out: one schema on stdout, or all of them as files. No network, no keys.
"""

import argparse
import sys
from pathlib import Path

from reconciler.cli.names import meant
from reconciler.cli.options import examples
from reconciler.desired.schemas import all_schemas, rendered
from reconciler.sdk import registry

_SUFFIX = ".schema.json"


def configure(parser: argparse.ArgumentParser) -> None:
    what = "integration (default), workspace, or connectors/TYPE"
    parser.add_argument("name", nargs="?", default="integration", metavar="NAME", help=what)
    parser.add_argument("--write", type=Path, metavar="DIR", help="write all schemas below DIR instead")
    parser.add_argument("--api", action="store_true", help="the OpenAPI document of the API instead")
    examples(
        parser, "reconciler schema connectors/slack", "reconciler schema --write schemas", "reconciler schema --api"
    )


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, or 1 for an unknown name or a folder that cannot be written."""
    if args.api:
        print(_api(), end="")
        return 0
    schemas = all_schemas(registry)
    if args.write is not None:
        return _write(args.write, {name: rendered(schema) for name, schema in schemas.items()})
    wanted = f"{args.name.removesuffix(_SUFFIX)}{_SUFFIX}"
    if wanted not in schemas:
        known = [name.removesuffix(_SUFFIX) for name in schemas]
        print(f"reconciler schema: there is no schema {args.name}{meant(args.name, known)}", file=sys.stderr)
        return 1
    print(rendered(schemas[wanted]), end="")
    return 0


def _api() -> str:
    import json

    from reconciler.serve.api import make_routes

    return json.dumps(make_routes().openapi(), indent=1, ensure_ascii=False) + "\n"


def _write(folder: Path, files: dict[str, str]) -> int:
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"reconciler schema: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{len(files)} schemas written to {folder}")
    return 0
