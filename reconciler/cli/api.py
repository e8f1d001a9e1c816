"""`reconciler api METHOD PATH`: any call of the API, for what no other command does. JSON goes out, a problem as JSON, too.

Exit code: 0 for a good answer, 1 for any other. Streams are not read: they do not end.
"""

import argparse
import json
import sys
from pathlib import Path

from reconciler.cli.options import examples
from reconciler.cli.server_access import add_server, answered, client_of, explained
from reconciler.cli.store_access import CommandError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="METHOD", type=str.upper, choices=METHODS, help=", ".join(METHODS))
    parser.add_argument("path", metavar="PATH", help="such as /v1/integrations; see /docs at the server")
    source = "the body, from @FILE or - (standard input)"
    parser.add_argument("--data", metavar="FROM", help=source)
    parser.add_argument(
        "--query", action="append", default=[], metavar="NAME=VALUE", help="a parameter; may be repeated"
    )
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="a header; may be repeated")
    add_server(parser)
    examples(
        parser,
        "reconciler api GET /v1/integrations --query status=error",
        "reconciler api POST /v1/integrations/servicenow-prod/sync --data @sync.json",
        "reconciler api PATCH /v1/integrations/chat --data - --header if-match='\"5d41402a\"' < patch.json",
        exits="0 a good answer, 1 any other",
    )


@answered
def run(args: argparse.Namespace) -> int:
    from reconciler.client import ApiError

    query, body = _pairs(args.query, "--query"), _body(args.data)
    headers = {name: values[-1] for name, values in _pairs(args.header, "--header").items()}
    with client_of(args) as client:
        try:
            reply = client.request(args.method, args.path, query=query, headers=headers, body=body)
        except ApiError as error:
            print(json.dumps(error.as_json(), indent=2))
            print(f"reconciler: {explained(error)}", file=sys.stderr)
            return 1
    _print(reply.content)
    return 0


def _print(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    try:
        print(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except ValueError:
        print(text, end="" if text.endswith("\n") or not text else "\n")


def _pairs(given: list[str], option: str) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise CommandError(f"{option} {name}: expected NAME=VALUE")
        pairs.setdefault(name, []).append(value)
    return pairs


def _body(source: str | None) -> bytes | None:
    """Not from the line itself: it may hold secrets."""
    if source is None:
        return None
    if source == "-":
        return sys.stdin.buffer.read()
    if not source.startswith("@"):
        raise CommandError("--data: expected @FILE or - (standard input)")
    try:
        return Path(source[1:]).read_bytes()
    except OSError as error:
        raise CommandError(f"--data: {source[1:]} cannot be read: {error.strerror}") from None
