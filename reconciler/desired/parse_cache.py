"""Checked manifests that outlive the process, so that `plan` of thousands of unchanged files parses none of them.

In: a file's place, handed in. Out: `ParseCache`, which `validate` asks before it parses. Only files without any finding
are kept, as they were written: ciphertext as its digest, never a clear secret (a manifest with one has a finding). An
entry counts for the same path and blob, under the same code, policy, workspace defaults and referenced files. Whatever
is wrong with the cache file, it is as if it were not there. Not safe for two writers: the last one wins, whole.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import reconciler
from reconciler.desired.crosscheck import make_links
from reconciler.desired.file_state import FileState
from reconciler.desired.manifests import Outcome, Setting
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.unresolved import replaced
from reconciler.model.ids import Ref
from reconciler.model.manifest import API_VERSION, Integration
from reconciler.model.secret import Unresolved
from reconciler.model.state import DesiredIntegration, Origin, Tree

_UNRESOLVED = 1
_FORMAT = 3
_WORTH_WRITING = 200


class _Document(msgspec.Struct, array_like=True, gc=False):
    index: int
    line: int
    workspace: str
    name: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    source_hash: str
    auth_type: str
    depends_on: tuple[str, ...]
    sources: tuple[tuple[int, tuple[str, ...]], ...]
    awaits: tuple[tuple[tuple[str | int, ...], str], ...]
    subjects: tuple[str, ...] | None


class _Record(msgspec.Struct, array_like=True, gc=False):
    blob_id: str
    defaults: dict[str, str]
    reads: dict[str, str]
    documents: tuple[_Document, ...]


class _File(msgspec.Struct, array_like=True):
    key: str
    records: dict[str, _Record]


class KeptIntegration(DesiredIntegration):
    """An integration from the cache. Its manifest was right when it was kept, and is built again when somebody asks."""

    __slots__ = ("_kept",)

    def __init__(
        # The same parameters as the dataclass, so that `dataclasses.replace` works.
        self,
        ref: Ref,
        manifest: "Integration | _Document",
        tree: Tree,
        source_hash: str,
        origin: Origin,
        created_by: str = "",
        updated_at: datetime | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)
        put("ref", ref)
        put("_kept", manifest)
        put("tree", tree)
        put("source_hash", source_hash)
        put("origin", origin)
        put("created_by", created_by)
        put("updated_at", updated_at)

    @property
    def manifest(self) -> Integration:
        kept: Integration | _Document = object.__getattribute__(self, "_kept")
        if not isinstance(kept, Integration):
            kept = Integration.model_validate(_whole(kept, self.tree))
            object.__setattr__(self, "_kept", kept)
        return kept


class ParseCache:
    """One file, read at the first question and written by `save`."""

    def __init__(self, path: Path, policy: TenantPolicy | None = None) -> None:
        self._path = path
        self._key = _key(policy)
        self._records: dict[str, _Record] | None = None
        self._changed = 0

    def holds(self, path: str, blob_id: str) -> bool:
        record = self._loaded().get(path)
        return record is not None and record.blob_id == blob_id

    def get(self, path: str, blob_id: str, setting: Setting) -> FileState | None:
        """The state of this file if nothing that it depends on has changed."""
        record = self._loaded().get(path)
        if record is None or record.blob_id != blob_id:
            return None
        if any(_digest(setting.defaults.get(name)) != digest for name, digest in record.defaults.items()):
            return None
        if any(setting.blob_of(read) != blob for read, blob in record.reads.items()):
            return None
        reads = tuple(record.reads)
        outcomes = tuple(_outcome(one, path, setting, reads) for one in record.documents)
        return FileState(path, blob_id, outcomes)

    def put(self, state: FileState, setting: Setting) -> FileState:
        """Keep a file without findings; others are checked anew every time. Gives it back as `get` would: most of the
        memory of a large repository is manifests that nobody will look at.
        """
        if not state.is_clean or any(outcome.workspace_name for outcome in state.outcomes):
            return state
        good = [outcome for outcome in state.outcomes if outcome.integration is not None]
        defaults = {ref.workspace: _digest(setting.defaults.get(ref.workspace)) for ref in state.refs}
        reads = {path: setting.blob_of(path) or "" for path in state.reads}
        documents = tuple(map(_document, good))
        self._loaded()[state.path] = _Record(state.blob_id, defaults, reads, documents)
        self._changed += 1
        return replace(state, outcomes=tuple(map(_light, good, documents)))

    def keep_only(self, paths: Mapping[str, object]) -> None:
        """Forget files that are no longer there."""
        gone = self._loaded().keys() - paths.keys()
        for path in gone:
            del self._loaded()[path]
        self._changed += len(gone)

    def save(self) -> None:
        """Write it, whole or not at all; a cache that cannot be written is none, and no error.

        Not for a few changes among many: writing all costs as much as checking a two-hundredth of the files again.
        """
        if self._changed * _WORTH_WRITING > len(self._loaded()):
            with contextlib.suppress(OSError):
                _write(self._path, _ENCODER.encode(_File(self._key, self._loaded())))
                self._changed = 0

    def _loaded(self) -> dict[str, _Record]:
        if self._records is None:
            self._records = _read(self._path, self._key)
        return self._records


def _read(path: Path, key: str) -> dict[str, _Record]:
    try:
        kept = _DECODER.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return {}
    return kept.records if kept.key == key else {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
    fresh.replace(path)


def _document(outcome: Outcome) -> _Document:
    integration = outcome.integration
    if integration is None:
        raise ValueError("only good documents are kept")
    manifest, links = integration.manifest, outcome.links
    own = manifest.spec.auth.get("type")
    return _Document(
        index=outcome.index,
        line=outcome.line,
        workspace=integration.ref.workspace,
        name=integration.ref.name,
        metadata=manifest.metadata.model_dump(),
        spec=dict(replaced(integration.tree, _packed)),
        source_hash=integration.source_hash,
        auth_type=own if isinstance(own, str) and own != _auth_type(integration.tree) else "",
        depends_on=tuple(ref.name for ref in links.depends_on) if links else (),
        sources=tuple((at, tuple(ref.name for ref in refs)) for at, refs in links.sources) if links else (),
        awaits=links.awaits if links else (),
        subjects=outcome.subjects,
    )


def _auth_type(tree: Tree) -> object:
    auth = tree.get("auth")
    return auth.get("type") if isinstance(auth, Mapping) else None


def _light(outcome: Outcome, kept: _Document) -> Outcome:
    one = outcome.integration
    if one is None:
        return outcome
    light = KeptIntegration(one.ref, kept, one.tree, one.source_hash, one.origin, one.created_by, one.updated_at)
    return replace(outcome, integration=light)


def _whole(kept: _Document, spec: Tree) -> Mapping[str, Any]:
    """What the manifest is built of again."""
    whole_spec = {**spec, "auth": {**spec.get("auth", {}), "type": kept.auth_type}} if kept.auth_type else spec
    return {"apiVersion": API_VERSION, "kind": "Integration", "metadata": kept.metadata, "spec": whole_spec}


def _outcome(kept: _Document, path: str, setting: Setting, reads: tuple[str, ...]) -> Outcome:
    workspace = kept.workspace
    ref = Ref(workspace, kept.name)
    origin = Origin(setting.source, path, kept.line, setting.revision)
    links = None
    if kept.depends_on or kept.sources or kept.awaits:
        sources = tuple((at, tuple(Ref(workspace, name) for name in names)) for at, names in kept.sources)
        links = make_links(tuple(Ref(workspace, name) for name in kept.depends_on), sources, kept.awaits)
    integration = KeptIntegration(ref, kept, kept.spec, kept.source_hash, origin)
    return Outcome(
        kept.index, kept.line, ref, integration=integration, reads=reads, links=links, subjects=kept.subjects
    )


def _packed(secret: Unresolved) -> msgspec.msgpack.Ext:
    parts = (secret.kind, secret.digest, secret.file, secret.key)
    return msgspec.msgpack.Ext(_UNRESOLVED, msgspec.msgpack.encode(parts))


def _restored(code: int, content: memoryview) -> Any:
    if code != _UNRESOLVED:
        raise ValueError(f"unknown extension {code}")
    return Unresolved(*msgspec.msgpack.decode(content, type=tuple[str, str, str, str]))  # type: ignore[arg-type]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_File, ext_hook=_restored)


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16] if value else ""


def _key(policy: TenantPolicy | None) -> str:
    """Changes with whatever decides whether a manifest is right: code, installed connectors, policy."""
    parts = [f"{_FORMAT} {reconciler.__version__} {policy!r}"]
    package = Path(reconciler.__file__).parent
    for folder in (package / "model", package / "sdk", package / "desired", package.parent / "connectors"):
        parts += _stamps(folder)
    for place in sys.path:
        with contextlib.suppress(OSError):
            parts.append(f"{place} {Path(place or '.').stat().st_mtime_ns if place.endswith('-packages') else 0}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _stamps(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return found
