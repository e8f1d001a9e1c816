"""`reconciler validate [PATH] [--output text|json|github]`: every finding of every manifest, at once.

In: a folder as it lies there (uncommitted files count), or one file. Out: findings on stdout, a summary on stderr. Exit
code 0 without errors, else 1. No network and no keys: encrypted values are taken for right. Names that a single file
refers to are taken to exist, since the other files are not looked at.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.cli.options import add_output, examples
from reconciler.desired.snapshot import (
    MAX_FILE_BYTES,
    FileEntry,
    FileHistory,
    ReadError,
    ReadFault,
    Snapshot,
    blob_id,
    compare_files,
)
from reconciler.desired.source_error import SourceError
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.finding import Finding, Severity
from reconciler.sdk import registry

_REGULAR = 0o100644


def configure(parser: argparse.ArgumentParser) -> None:
    path = "folder or file (default: this folder)"
    parser.add_argument("path", nargs="?", type=Path, default=Path(), metavar="PATH", help=path)
    add_output(parser, _WRITERS)
    examples(
        parser,
        "reconciler validate",
        "reconciler validate integrations/slack.yaml",
        "reconciler validate --output github",
        exits="0 no errors (warnings may be there), 1 errors",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 without errors (warnings may be there), else 1."""
    try:
        checked = check_path(args.path)
    except SourceError as error:
        print(f"reconciler validate: {error}", file=sys.stderr)
        return 1
    findings = [replace(one, file=_shown(args.path, one.file)) for one in checked.state.findings]
    sys.stdout.write(_WRITERS[args.output](findings))
    sys.stdout.flush()
    errors = sum(one.severity is Severity.ERROR for one in findings)
    files = sum(1 for state in checked.files.values() if state.outcomes or state.findings)
    print(_summary(files, errors, len(findings) - errors), file=sys.stderr)
    return 1 if errors else 0


def check_path(path: Path) -> Validated:
    """Raises SourceError where nothing can be read there."""
    if path.is_dir() or not path.exists():
        from reconciler.desired.folder import scan_folder

        return validate(scan_folder(path, keeps=True), Inputs(source=str(path), registry=registry))
    snapshot = OneFile.at(path)
    blob_of = _neighbours(path.parent)
    return validate(snapshot, Inputs(source=str(path), registry=registry, blob_of=blob_of, check_links=False))


@dataclass(frozen=True, slots=True)
class OneFile:
    """A single file as a snapshot."""

    path: Path
    files: Mapping[str, FileEntry] = field(repr=False)
    content: bytes | ReadError = field(repr=False)
    revision: str = "file"

    @classmethod
    def at(cls, path: Path) -> "OneFile":
        """What a file holds, or why it cannot be read; more than a manifest may have is not read."""
        content: bytes | ReadError
        try:
            with path.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            content = ReadError(path.name, ReadFault.UNREADABLE, error.strerror or "cannot be read")
        known = blob_id(content) if isinstance(content, bytes) else ""
        # A file that a person names is read, whatever its ending.
        name = path.name if path.suffix in (".yaml", ".yml") and not path.name.startswith(".") else "manifest.yaml"
        return cls(path, {name: FileEntry(known, None, _REGULAR)}, content)

    def read(self, path: str) -> bytes:
        if isinstance(self.content, ReadError):
            raise self.content
        return self.content

    def history(self, path: str) -> FileHistory:
        return FileHistory()

    def changes(self, older: Snapshot) -> Mapping[str, FileEntry | None]:
        return compare_files(older.files, self.files)


def _neighbours(folder: Path) -> Callable[[str], str | None]:
    """Whether a file that `from_sops` names lies there; its content does not matter to a check without keys."""
    return lambda name: "present" if (folder / name).is_file() else None


def _shown(argument: Path, file: str) -> str:
    """The path as the person who typed the command would type it."""
    return os.path.normpath(argument / file) if argument.is_dir() else str(argument)


def _summary(files: int, errors: int, warnings: int) -> str:
    counts = [_counted(files, "file"), _counted(errors, "error")] + (
        [_counted(warnings, "warning")] if warnings else []
    )
    return ", ".join(counts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _text(findings: Iterable[Finding]) -> str:
    return "".join(f"{'warning: ' if one.severity is Severity.WARNING else ''}{one}\n" for one in findings)


def _json(findings: Iterable[Finding]) -> str:
    listed = [
        {
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "severity": one.severity.value,
            "code": one.code.value,
            "message": one.message,
            "remedy": one.remedy,
        }
        for one in findings
    ]
    return json.dumps({"findings": listed}, indent=2, ensure_ascii=False) + "\n"


def _github(findings: Iterable[Finding]) -> str:
    """Workflow commands: GitHub shows them beside the lines of the pull request."""
    lines = []
    for one in findings:
        place = f"file={_property(one.file)}"
        if one.line:
            place += f",line={one.line},col={one.column}"
        message = f"{one.message} ({one.remedy})" if one.remedy else one.message
        lines.append(f"::{one.severity.value} {place},title={_property(one.code.value)}::{_escaped(message)}\n")
    return "".join(lines)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


_WRITERS: Mapping[str, Callable[[Iterable[Finding]], str]] = {"text": _text, "json": _json, "github": _github}
