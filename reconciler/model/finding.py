"""Findings: what is wrong in what a person wrote, where, and how to mend it. All are collected, none stops the rest."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """Every code a finding may bear. Stable: operators filter on them."""

    YAML_SYNTAX = "yaml-syntax"
    YAML_DUPLICATE_KEY = "yaml-duplicate-key"
    YAML_TAG = "yaml-tag"
    YAML_LIMIT = "yaml-limit"
    FILE_UNREADABLE = "file-unreadable"
    FILE_TOO_LARGE = "file-too-large"
    FILE_BINARY = "file-binary"
    FILE_SYMLINK = "file-symlink"
    UNKNOWN_KIND = "unknown-kind"
    UNKNOWN_FIELD = "unknown-field"
    UNKNOWN_TYPE = "unknown-type"
    MISSING_FIELD = "missing-field"
    INVALID_VALUE = "invalid-value"
    INVALID_SCHEDULE = "invalid-schedule"
    INVALID_TEMPLATE = "invalid-template"
    INVALID_REFERENCE = "invalid-reference"
    UNKNOWN_ENTITY = "unknown-entity"
    UNKNOWN_ACTION = "unknown-action"
    UNKNOWN_EVENT = "unknown-event"
    DUPLICATE_NAME = "duplicate-name"
    DEPENDENCY_CYCLE = "dependency-cycle"
    NOT_PERMITTED = "not-permitted"
    SECRET_IN_CLEAR = "secret-in-clear"
    ENCRYPTED_ENVELOPE = "encrypted-envelope"
    SOPS_MALFORMED = "sops-malformed"
    SOPS_MAC_MISMATCH = "sops-mac-mismatch"
    SOPS_MAC_MISSING = "sops-mac-missing"
    SOPS_KEY_MISSING = "sops-key-missing"
    SOPS_CLEAR_VALUE = "sops-clear-value"
    SOPS_PROGRAM_MISSING = "sops-program-missing"
    SECRET_MISSING = "secret-missing"
    SOURCE_UNAVAILABLE = "source-unavailable"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing to mend. `line` and `column` count from 1; 0 means the file as a whole.

    `workspace` is whose it is: empty where the file does not say, so that it may be anybody's.
    """

    file: str
    line: int
    column: int
    code: Code
    message: str
    remedy: str = ""
    severity: Severity = Severity.ERROR
    workspace: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{where}: {self.code}: {self.message}{remedy}"
