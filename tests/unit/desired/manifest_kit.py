"""A snapshot in memory, a small connector and a registry that knows only it: what the tests of manifests stand on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.snapshot import FileEntry, FileHistory, Snapshot, blob_id, compare_files, entry_to_read
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.manifest import Spec
from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, Channel, Connector, Deletes, Entity, NoAuth, Probe, Settings
from reconciler.sdk.registry import UnknownTypeError


class Webhook(Settings):
    signing_secret: Secret
    path: str = "/hook"


class DeskConfig(Settings):
    url: str = Field(pattern="^https?://")
    retries: int = Field(3, ge=0, le=10)
    webhook: Webhook | None = None


class Basic(AuthSettings):
    type: Literal["basic"]
    aliases: ClassVar[tuple[str, ...]] = ("basic_auth",)
    username: str
    password: Secret


class Key(AuthSettings):
    type: Literal["key"]
    key: Secret
    backup_key: Secret | None = None


class Post(Settings):
    text: str
    channel: str
    urgency: Literal["low", "high"] = "low"


class Desk(Connector[DeskConfig, AuthSettings]):
    type = "desk"
    title = "Desk"
    Config = DeskConfig
    auth_types = (Basic, Key)
    entities = (Entity(name="tickets", has_delta=True), Entity(name="people", deletes=Deletes.KEYS))
    channels = (Channel(name="post", fields=Post, text_field="text"), Channel(name="close", fields=DeskConfig))

    async def probe(self) -> Probe:
        return Probe("nobody")


class Bell(Connector[Settings, NoAuth]):
    """Takes messages, reads nothing, needs no credential."""

    type = "bell"
    title = "Bell"
    Config = Settings
    auth_types = (NoAuth,)
    channels = (Channel(name="ring", fields=Settings),)

    async def probe(self) -> Probe:
        return Probe("nobody")


class TinyRegistry:
    connectors: ClassVar[dict[str, AnyConnector]] = {"desk": Desk, "bell": Bell}

    def known_types(self) -> tuple[str, ...]:
        return tuple(sorted(self.connectors))

    def load(self, type_name: str, /) -> AnyConnector:
        if type_name not in self.connectors:
            raise UnknownTypeError(type_name)
        return self.connectors[type_name]


@dataclass(frozen=True)
class MemorySnapshot:
    """Files by path. `reads` notes every file that was read."""

    contents: Mapping[str, bytes]
    revision: str = "r1"
    modes: Mapping[str, int] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    @property
    def files(self) -> Mapping[str, FileEntry]:
        return {
            path: FileEntry(blob_id(content), None, self.modes.get(path, 0o100644))
            for path, content in self.contents.items()
        }

    def read(self, path: str) -> bytes:
        entry_to_read(self.files, path)
        self.reads.append(path)
        return self.contents[path]

    def history(self, path: str) -> FileHistory:
        return FileHistory()

    def changes(self, older: Snapshot) -> Mapping[str, FileEntry | None]:
        return compare_files(older.files, self.files)


def snapshot(
    files: Mapping[str, str | bytes], revision: str = "r1", modes: Mapping[str, int] | None = None
) -> MemorySnapshot:
    contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    return MemorySnapshot(contents, revision, modes or {})


def check(files: Mapping[str, str | bytes], previous: Validated | None = None, **inputs: Any) -> Validated:
    """Validate files held in memory with the tiny registry."""
    return validate(
        snapshot(files, f"r{id(files)}"), Inputs(source="test", registry=TinyRegistry(), **inputs), previous
    )


def desk(name: str = "a", workspace: str = "default", **spec: str) -> str:
    """A right manifest, one field a line; `spec` replaces or adds fields of `spec` as they are written in YAML."""
    fields = {
        "type": "desk",
        "auth": "{type: key, key: {from_env: DESK_KEY}}",
        "config": "{url: 'https://desk.test'}",
    } | spec
    lines = "".join(f"  {key}: {value}\n" for key, value in fields.items() if value)
    head = (
        f"apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata: {{name: {name}, workspace: {workspace}}}\nspec:\n"
    )
    return head + lines


def lines(checked: Validated) -> list[str]:
    return [str(finding) for finding in checked.state.findings]


def only_finding(text: str, **inputs: Any) -> str:
    """The one finding of one file, which must have exactly one."""
    (line,) = lines(check({"m.yaml": text}, **inputs))
    return line


__all__ = ["Spec", "check", "desk", "lines", "only_finding", "snapshot"]
