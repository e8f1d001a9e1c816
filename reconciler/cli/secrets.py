"""`reconciler secrets keygen|encrypt|decrypt|rotate`: SOPS files on a person's own machine.

In: files and the environment SOPS reads keys from. Out: SOPS files that any SOPS program reads, or clear ones; on stdout,
or in place, where the new file takes the old one's place in one step. One line on stderr for each file that fails.
The nearest `.sops.yaml` above a file names its recipients and rules. A manifest without a rule is encrypted by the names
of its fields (`envelope.MANIFEST_REGEX`); any other file wholly, but for keys that end in `_unencrypted`.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reconciler.cli.age_key import new_key
from reconciler.cli.options import examples
from reconciler.desired.sops import encrypt as sealing
from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.document import decrypt
from reconciler.desired.sops.envelope import MANIFEST_RULES, check_manifests, is_manifest
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import Format, decoded, format_of, read_json
from reconciler.desired.sops.keys import Keyring, default_key_file, keyring_from_env
from reconciler.desired.sops.policy import Policy, load_policy, split_recipients
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.tree import revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.clock import Clock, SystemClock
from reconciler.model.finding import Code

Transform = Callable[[Path, bytes], bytes]
_STEP = re.compile(r"""\[(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([0-9]+))\]""")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(dest="secrets_command", required=True, metavar="COMMAND")
    keygen = _command(commands, "keygen", "make an age key; prints its public half, the recipient")
    where = "file for the private key (default: where SOPS looks for it)"
    keygen.add_argument("-o", "--output", type=Path, metavar="FILE", help=where)
    encrypt = _with_files(_command(commands, "encrypt", "encrypt clear files for whom .sops.yaml says"))
    age = "public key to encrypt to, several with commas or by giving it again (default: $SOPS_AGE_RECIPIENTS, else .sops.yaml)"
    encrypt.add_argument("--age", action="append", default=[], metavar="RECIPIENT", help=age)
    regex = "encrypt what stands below keys that match (default: as .sops.yaml says; of a manifest, its secrets)"
    encrypt.add_argument("--encrypted-regex", metavar="REGEX", help=regex)
    examples(
        encrypt, "reconciler secrets encrypt -i integrations/slack.yaml", "reconciler secrets encrypt -i secrets/*.yaml"
    )
    clear = _with_files(_command(commands, "decrypt", "print or write the clear files, with the keys SOPS would use"))
    clear.add_argument("--extract", metavar="PATH", help="""only one value, such as '["auth"]["token"]'""")
    examples(
        clear,
        "reconciler secrets decrypt integrations/slack.yaml",
        """reconciler secrets decrypt --extract '["spec"]["auth"]["token"]' integrations/slack.yaml""",
    )
    _with_files(_command(commands, "rotate", "encrypt files anew, for whom .sops.yaml says now"))
    examples(parser, "reconciler secrets keygen", "reconciler secrets encrypt -i integrations/slack.yaml")


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return made


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, or 1 when a file failed."""
    clock, env = SystemClock(), os.environ
    if args.secrets_command == "keygen":
        return _keygen(args.output or default_key_file(env), clock)
    return _each(
        args, {"encrypt": _encrypt, "decrypt": _decrypt, "rotate": _rotate}[args.secrets_command](args, clock, env)
    )


def _with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="YAML, JSON, .env, INI or anything else; several with -i"
    )
    parser.add_argument("-i", "--in-place", action="store_true", help="write to the file instead of stdout")
    return parser


def _keygen(path: Path, clock: Clock) -> int:
    try:
        print(new_key(path, clock.now()))
    except FileExistsError:
        return _failed(path, Code.INVALID_VALUE, "exists already and holds keys", "name another file with -o")
    except OSError as cause:
        return _failed(path, Code.FILE_UNREADABLE, f"cannot be written: {cause.strerror}", "name another file with -o")
    return 0


def _encrypt(args: argparse.Namespace, clock: Clock, env: Mapping[str, str]) -> Transform:
    given = [part for text in args.age or [env.get("SOPS_AGE_RECIPIENTS", "")] for part in split_recipients(text)]

    def transform(path: Path, content: bytes) -> bytes:
        policy, fmt = load_policy(path), format_of(path)
        recipients = tuple(given) or policy.recipients
        if policy.other_sources and not given:
            raise _only_sops(policy)
        documents = _documents(content, fmt)
        rules = _rules(args.encrypted_regex, policy, documents)
        check_manifests(documents, rules)
        return sealing.encrypt(content, fmt, sealing.Sealing(recipients, rules, clock.now()))

    return transform


def _decrypt(args: argparse.Namespace, _: Clock, env: Mapping[str, str]) -> Transform:
    keyring = _keyring(env)
    if args.extract is None:
        return lambda path, content: clear_text(content, format_of(path), keyring())
    steps = _steps(args.extract)

    def transform(path: Path, content: bytes) -> bytes:
        if args.in_place:
            raise SopsError(Code.INVALID_VALUE, "--extract and --in-place exclude each other", "leave one out")
        value = _extracted(revealed(decrypt(content, format_of(path), keyring()).tree), steps())
        return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()

    return transform


def _rotate(_: argparse.Namespace, clock: Clock, env: Mapping[str, str]) -> Transform:
    keyring = _keyring(env)

    def transform(path: Path, content: bytes) -> bytes:
        policy = load_policy(path)
        if policy.other_sources:
            raise _only_sops(policy)
        fresh = sealing.Sealing(policy.recipients, Rules(), clock.now())
        return sealing.rotate(content, format_of(path), keyring(), policy.recipients, fresh)

    return transform


def _keyring(env: Mapping[str, str]) -> Callable[[], Keyring]:
    """Read the key files when the first file needs them, so that their errors are reported like any other."""
    kept: list[Keyring] = []

    def keyring() -> Keyring:
        if not kept:
            kept.append(keyring_from_env(env))
        return kept[0]

    return keyring


def _only_sops(policy: Policy) -> SopsError:
    message = f"the rule in {policy.origin} names recipients other than age: {', '.join(policy.other_sources)}"
    return SopsError(Code.SOPS_PROGRAM_MISSING, message, "run sops itself, or give --age")


def _documents(content: bytes, fmt: Format) -> list[Any]:
    if fmt == "yaml":
        return [document for document in read_documents(decoded(content)) if isinstance(document, dict)]
    return [read_json(decoded(content))] if fmt == "json" else []


def _rules(regex: str | None, policy: Policy, documents: list[Any]) -> Rules:
    mac_only = bool(policy.rules and policy.rules.mac_only_encrypted)
    if regex:
        return Rules("encrypted_regex", regex, mac_only)
    if policy.rules:
        return policy.rules
    return MANIFEST_RULES if any(map(is_manifest, documents)) else Rules()


def _steps(path: str) -> Callable[[], list[str | int]]:
    def steps() -> list[str | int]:
        if not path or _STEP.sub("", path):
            message = f"--extract {path} is not a path"
            raise SopsError(Code.INVALID_VALUE, message, """write it like '["auth"]["token"]' or '["list"][0]'""")
        return [_step(*match.groups()) for match in _STEP.finditer(path)]

    return steps


def _step(double: str | None, single: str | None, number: str | None) -> str | int:
    if number is not None:
        return int(number)
    return re.sub(r"\\(.)", r"\1", double) if double is not None else single or ""


def _extracted(tree: Any, steps: list[str | int]) -> Any:
    for step in steps:
        inside = isinstance(tree, dict) if isinstance(step, str) else isinstance(tree, list)
        if not inside or (step not in tree if isinstance(tree, dict) else int(step) >= len(tree)):
            raise SopsError(
                Code.INVALID_VALUE, f"there is no {step!r} at that path", "see the keys in the encrypted file"
            )
        tree = tree[step]
    return tree


def _each(args: argparse.Namespace, transform: Transform) -> int:
    if len(args.files) > 1 and not args.in_place:
        return _failed(args.files[1], Code.INVALID_VALUE, "only one file goes to stdout", "give --in-place")
    return max([_one(path, transform, in_place=args.in_place) for path in args.files])


def _one(path: Path, transform: Transform, *, in_place: bool) -> int:
    try:
        result = transform(path, path.read_bytes())
        if in_place:
            _replace(path, result)
        else:
            sys.stdout.buffer.write(result)
            sys.stdout.buffer.flush()
    except SopsError as error:
        return _failed(path, error.code, error.message, error.remedy)
    except OSError as cause:
        return _failed(path, Code.FILE_UNREADABLE, cause.strerror or "cannot be read or written", "")
    return 0


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and rename; a link is followed, so that it stays one. Others never see the file while it is
    open to its owner only."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(target.stat().st_mode & 0o7777)
        Path(name).replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _failed(path: Path, code: Code, message: str, remedy: str) -> int:
    print(f"{path}: {code}: {message}{f' ({remedy})' if remedy else ''}", file=sys.stderr)
    return 1
