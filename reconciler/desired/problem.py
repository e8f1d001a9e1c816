"""What is wrong with a document, before anybody knows on which line: a path instead of a place.

Made by the checks of one document and of the state as a whole, turned into findings once the positions of the file are
known.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.desired.positions import Path, Positions
from reconciler.model.finding import Code, Finding, Severity

_LONGEST_LIST = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """`at_key`: the key is wrong, not its value."""

    path: Path
    code: Code
    message: str
    remedy: str = ""
    at_key: bool = False
    severity: Severity = Severity.ERROR

    def finding(self, file: str, document: int, positions: Positions, workspace: str) -> Finding:
        """`workspace`: whose document it is, empty where that cannot be read."""
        line, column = positions.locate(document, self.path, at_key=self.at_key)
        return Finding(file, line, column, self.code, self.message, self.remedy, self.severity, workspace)


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `spec.synchronizations[0].when`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:60]}"
    return "".join(c if c.isprintable() else "?" for c in text.removeprefix("."))


def did_you_mean(wrong: object, known: Iterable[str], what: str = "known") -> str:
    """The nearest name that exists, else the names that exist, else nothing."""
    names = sorted(known)
    near = difflib.get_close_matches(str(wrong)[:100], names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    if not names:
        return ""
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return f"{what}: {', '.join(names[:_LONGEST_LIST])}{more}"


def shown(value: object) -> str:
    """A value of the manifest as a message may show it: short, on one line. Never call it for what may be a secret."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
