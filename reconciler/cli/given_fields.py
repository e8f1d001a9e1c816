"""Fields of a manifest as they are typed: `--set config.url=...`, `--secret auth.token=@FILE`, `--unset`, `--label`.

Out: the part of `spec` that was given. A secret comes from a file, standard input or the environment, never from the line
itself, which others see and shells remember.
"""

import argparse
import os
import re
import sys
from getpass import getpass
from pathlib import Path
from typing import Any

from reconciler.cli.store_access import CommandError

_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SOURCES = "expected auth.token=@FILE, auth.token=- (asked for, or standard input) or auth.token=env:NAME"


def add_fields(parser: argparse.ArgumentParser) -> None:
    given = (
        "a field of spec, such as config.url=https://x.example.org; value as in YAML, lists and mappings in brackets"
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="FIELD=VALUE", help=given)
    secret = "a secret field from @FILE, - (asked for, or standard input) or env:NAME; it is encrypted before it is committed"
    parser.add_argument("--secret", dest="secrets", action="append", default=[], metavar="FIELD=FROM", help=secret)
    parser.add_argument("--label", dest="labels", action="append", default=[], metavar="NAME=VALUE", help="a label")


def labels_of(args: argparse.Namespace) -> dict[str, str]:
    pairs = [_split(text, "--label", "team=service-desk") for text in args.labels]
    return dict(pairs)


def fields_of(args: argparse.Namespace) -> dict[str, Any]:
    """The tree that the options describe. Raises CommandError."""
    tree: dict[str, Any] = {}
    for text in args.sets:
        path, value = _split(text, "--set", "config.url=https://x.example.org")
        _put(tree, path, _value(path, value))
    if [text.partition("=")[2] for text in args.secrets].count("-") > 1:
        raise CommandError("--secret: only one can come from standard input")
    for text in args.secrets:
        path, source = _split(text, "--secret", "auth.token=@FILE")
        _put(tree, path, _secret(path, source))
    for path in getattr(args, "unsets", ()):
        _put(tree, path, None)
    return tree


def _split(text: str, option: str, example: str) -> tuple[str, str]:
    path, separator, value = text.partition("=")
    if not separator or not path:  # without the text: somebody may have typed a secret into it
        raise CommandError(f"{option}: expected such as {example}")
    return path, value


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    steps = path.split(".")
    if not all(_STEP.fullmatch(step) for step in steps):
        raise CommandError(f"{path}: expected a field of spec, such as config.url")
    for step in steps[:-1]:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise CommandError(f"{path}: {step} is given as a value, too")
    if steps[-1] in tree:
        raise CommandError(f"{path} is given twice")
    tree[steps[-1]] = value


def _value(path: str, text: str) -> Any:
    """As YAML 1.2 reads it in a manifest; a plain text need not be quoted, whatever is in it."""
    from reconciler.desired.yaml_source import read_yaml, scalar

    if not text.startswith(("[", "{", '"', "'")):
        try:
            value = scalar(text)
        except ValueError as error:
            raise CommandError(f"--set {path}: {error}; put it in quotes if it is text") from None
    else:
        file = read_yaml(text.encode())
        problems = [*file.problems, *(p for d in file.documents for p in d.problems)]
        if problems or len(file.documents) != 1:
            why = problems[0].message if problems else "expected one value"
            raise CommandError(f"--set {path}: {why}")
        value = file.documents[0].tree
    _demand_open(path, value)
    return value


def _demand_open(path: str, value: Any) -> None:
    """A secret is not to be typed: raises CommandError for a value in a field that is one by its name."""
    from reconciler.desired.sops.envelope import MANIFEST_REGEX

    if isinstance(value, dict) and not {"from_sops", "from_env", "from_file"} & value.keys():
        for name, one in value.items():
            _demand_open(f"{path}.{name}", one)
    elif not isinstance(value, dict) and value is not None and re.match(MANIFEST_REGEX, path.rpartition(".")[2]):
        raise CommandError(
            f"--set {path}: a secret is no argument, others would see it; use --secret {path}=@FILE, - or env:NAME"
        )


def _secret(path: str, source: str) -> str:
    if source.startswith("@"):
        try:
            value = Path(source[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--secret {path}: {source[1:]} cannot be read: {error}") from None
    elif source == "-":
        value = getpass(f"{path}: ") if sys.stdin.isatty() else sys.stdin.read()
    elif source.startswith("env:"):
        found = os.environ.get(source[4:])
        if found is None:
            raise CommandError(f"--secret {path}: there is no variable {source[4:]}")
        value = found
    else:
        raise CommandError(f"--secret {path}: {_SOURCES}")
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise CommandError(f"--secret {path}: what came is empty")
    return value
