"""N integrations as a daemon holds them: a repository, the book that follows it, and a store where all are connected.

Made through the product's own rooms; only the remote is left out, so what a reconcile would record is recorded here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pyrage

from benchmarks.manifests import Repository, git, make_repository
from reconciler.app.book import SourceBook
from reconciler.control.intake import Intake, Intaken
from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.resolve import Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.encrypt import Sealing, encrypt
from reconciler.desired.sops.keys import Keyring, parse_identities
from reconciler.desired.sops.rules import Rules
from reconciler.desired.tree import GitSnapshot, Objects, patched
from reconciler.desired.validate import Inputs
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.state import DesiredIntegration
from reconciler.sdk import registry
from reconciler.sdk.redact import Redactor
from reconciler.store import conditions, integrations, jobs, probes
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import Applied
from reconciler.store.location import Location, backend
from reconciler.store.migrations import migrate
from reconciler.store.probes import ProbeRecord

SOURCE = "main"
FROM_SOPS = "{from_sops: {file: ../secrets.yaml, key: password}}"
_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Installation:
    """`base` is the snapshot that everything was connected from."""

    repository: Repository
    objects: Objects
    base: GitSnapshot
    book: SourceBook
    intake: Intake
    database: Database

    def snapshot(self, revision: str, before: GitSnapshot) -> GitSnapshot:
        """A new HEAD, as the source makes it of the last good one: by the difference of two trees."""
        files = patched(before.files, self.objects.changed(before.revision, revision, ""))
        return GitSnapshot(revision, files, "", self.objects)

    async def take(self, snapshot: GitSnapshot) -> Intaken:
        """What the daemon does with a new revision: check, decrypt, plan, and write what changed."""
        desired = await self.book.take(SOURCE, snapshot)
        assert desired is not None
        return await self.intake.take(desired)


@asynccontextmanager
async def installed(folder: Path, count: int, place: Location | None = None) -> AsyncIterator[Installation]:
    """All of them connected from the first commit, with nothing due. The store is at `place`, else a file in `folder`."""
    identity = pyrage.x25519.Identity.generate()
    repository = _repository(folder / "repo", count, str(identity.to_public()))
    objects = Objects(repository.folder)
    base = GitSnapshot(repository.all, objects.list_blobs(repository.all, ""), "", objects)
    policy = TenantPolicy((WorkspaceRule(),))
    keyring = Keyring(tuple(parse_identities(str(identity), "benchmark")))
    resolver = Resolver(
        keyring=keyring, env={}, policy=policy, hash_key=bytes(32), registry=registry, cache=DecryptionCache()
    )
    book = SourceBook({SOURCE: Inputs(source=SOURCE, registry=registry, policy=policy)}, resolver, Redactor())
    database = Database(backend(place or folder / "reconciler.db", _CLOCK))
    try:
        await migrate(database)
        made = Installation(repository, objects, base, book, Intake(database, book, _CLOCK), database)
        await made.take(base)
        await _connect(made)
        yield made
    finally:
        database.close()
        book.close()


def _repository(folder: Path, count: int, recipient: str) -> Repository:
    made = make_repository(folder, count, FROM_SOPS)
    sealing = Sealing((recipient,), Rules(), _CLOCK.now())
    (folder / "secrets.yaml").write_bytes(encrypt(b"password: a-password-of-some-length\n", "yaml", sealing))
    # The secrets must be there from the first commit on: the same three commits, with it.
    trees = [made.all, made.one, made.none]
    return Repository(folder, *_with_secrets(folder, trees))


def _with_secrets(folder: Path, commits: list[str]) -> list[str]:
    rewritten: list[str] = []
    for one in commits:
        git(folder, "read-tree", one)
        git(folder, "add", "secrets.yaml")
        parents = [word for parent in rewritten[-1:] for word in ("-p", parent)]
        rewritten.append(git(folder, "commit-tree", git(folder, "write-tree"), *parents, "-m", "change"))
    git(folder, "update-ref", "HEAD", rewritten[-1])
    return rewritten


async def _connect(made: Installation) -> None:
    state = made.book.state
    assert state is not None
    specs = [opened for ref in state.integrations if (opened := await made.book.opened(ref)) is not None]
    ids = {row.ref: row.id for row in await made.database.read(integrations.every)}
    at = rfc3339(_CLOCK.now())

    def connect(tx: Tx) -> None:
        for one in specs:
            _record(tx, ids[one.desired.ref], one.desired, one.spec.effective_hash, one.spec.fingerprints, at)

    await made.database.write(connect)


def _record(
    tx: Tx, integration_id: int, desired: DesiredIntegration, effective: str, fingerprints: object, at: str
) -> None:
    applied = Applied(
        1, desired.tree, desired.source_hash, effective, dict(fingerprints), desired.origin.revision,  # type: ignore[call-overload]
        desired.manifest.spec.type, desired.manifest.spec.deletion_policy,
    )  # fmt: skip
    integrations.record_applied(tx, integration_id, applied, at)
    probes.record_probe(tx, integration_id, ProbeRecord(is_good=True, latency_ms=12.5, identity="recon"), at, at)
    said = [
        Say(ConditionType.CONNECTED, Truth.TRUE, Reason.SUCCEEDED, "connected as recon"),
        Say(ConditionType.FRESH, Truth.TRUE, Reason.SUCCEEDED, "the last sync succeeded"),
        Say(ConditionType.RECONCILING, None),
    ]
    conditions.say(tx, integration_id, 1, said, at)
    integrations.set_next_sync(tx, integration_id, at)
    jobs.drop(tx, kind="reconcile", ref=str(integration_id))
