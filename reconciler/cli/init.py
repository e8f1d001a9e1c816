"""`reconciler init [DIR]`: a repository to start from, with examples that are valid, encrypted and switched off.

In: a folder without these files, and an age recipient; where none is given, the key that SOPS would find here, or a new
one in its place. Out: files that `reconciler validate` finds nothing wrong with. Nothing is overwritten, and the private
key never lies inside the folder. Not done: `git init`, and anything at a remote.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from reconciler.cli.age_key import new_key
from reconciler.cli.options import examples
from reconciler.cli.store_access import CommandError, guarded

PLACES = {
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "sops.yaml": ".sops.yaml",
    "workspace.yaml": "workspace.yaml",
    "slack.yaml": "integrations/slack.yaml",
    "servicenow.yaml": "integrations/servicenow.yaml",
    "vscode.json": ".vscode/settings.json",
    "github-actions.yaml": ".github/workflows/integrations.yaml",
    "gitlab-ci.yaml": ".gitlab-ci.yml",
}
ENCRYPTED = ("integrations/slack.yaml", "integrations/servicenow.yaml")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", nargs="?", type=Path, default=Path(), metavar="DIR", help="folder (default: this one)")
    age = "public key to encrypt to, several with commas or by giving it again (default: yours)"
    parser.add_argument("--age", action="append", default=[], metavar="RECIPIENT", help=age)
    key = "where your private key is, or is to be made (default: where SOPS looks)"
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=key)
    examples(parser, "reconciler init integrations", "reconciler init integrations --age age1...,age1...")


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.desired.sops.errors import SopsError

    folder, now = args.dir.resolve(), datetime.now(UTC)
    try:
        schemas = _schemas()
        _refuse_overwriting(folder, [*PLACES.values(), *schemas])
        recipients, remark = _recipients(args, folder, now)
        starter = starter_files(recipients, now) | schemas
        _write(folder, starter)
    except SopsError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from None
    print(f"{len(starter)} files written to {args.dir}")
    print(remark)
    print(f"next: read {args.dir / 'README.md'}, then: git init, git add, git commit")
    return 0


def _schemas() -> dict[str, str]:
    from reconciler.desired.schemas import all_schemas, rendered
    from reconciler.sdk import registry

    return {f"schemas/{name}": rendered(schema) for name, schema in all_schemas(registry).items()}


def _refuse_overwriting(folder: Path, places: Sequence[str]) -> None:
    there = [place for place in places if (folder / place).exists()]
    if there:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise CommandError(
            f"{folder} has {', '.join(there[:3])}{more} already; nothing was written, choose an empty folder"
        )


def _recipients(args: argparse.Namespace, folder: Path, now: datetime) -> tuple[list[str], str]:
    """Whom to encrypt to, and what the person has to know of the private key."""
    from reconciler.desired.sops.keys import default_key_file, parse_identities, parse_recipient
    from reconciler.desired.sops.policy import split_recipients

    given = [part for text in args.age for part in split_recipients(text)]
    if given:
        for recipient in given:
            parse_recipient(recipient)
        return given, f"secrets are encrypted to {', '.join(given)}; its private key is wherever you keep it"
    path = (args.key_file or default_key_file(os.environ)).absolute()
    if path.is_file():
        known = [one.recipient for one in parse_identities(path.read_text("utf-8"), str(path)) if one.recipient]
        if not known:
            raise CommandError(f"{path} holds no age key whose public key is known; name one with --age")
        return known[:1], f"secrets are encrypted to {known[0]}, whose private key is in {path}"
    if path.resolve().is_relative_to(folder):
        raise CommandError(f"{path} is inside {folder}; a private key must never be committed, name another --key-file")
    recipient = new_key(path, now)
    return [recipient], f"a new private key is in {path}: keep it safe, nothing can be decrypted without it"


def starter_files(recipients: Sequence[str], now: datetime) -> dict[str, str]:
    """Every file but the schemas, by its place in the repository."""
    from reconciler import __version__
    from reconciler.desired.sops.encrypt import Sealing, encrypt
    from reconciler.desired.sops.envelope import MANIFEST_REGEX, MANIFEST_RULES

    words = {
        "@RECIPIENTS@": ",".join(recipients),
        "@RECIPIENT@": recipients[0],
        "@REGEX@": MANIFEST_REGEX,
        "@VERSION@": __version__,
    }
    package = files("reconciler.cli") / "starter"
    made = {place: _filled((package / name).read_text("utf-8"), words) for name, place in PLACES.items()}
    rules = replace(MANIFEST_RULES, mac_only_encrypted=True)  # as the rule in starter/sops.yaml says
    sealing = Sealing(tuple(recipients), rules, now)
    return made | {place: encrypt(made[place].encode(), "yaml", sealing).decode() for place in ENCRYPTED}


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _write(folder: Path, content: Mapping[str, str]) -> None:
    for place, text in content.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
