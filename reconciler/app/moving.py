"""An installation from one place to another: to PostgreSQL, into a backup, back from one. One mechanism, `store.copying`.

In: where from, where to. Out: what was copied, and what its credentials are sealed with. Called by `reconciler database`. The
master key is never copied: a backup without it opens nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.app.vault import given_keys, key_id, own_key_file, read_keys
from reconciler.model.secret import Secret
from reconciler.settings import Settings, SettingsError
from reconciler.store import inventory, leases
from reconciler.store.copying import Side, Tell, copy, source_version
from reconciler.store.errors import StateLockedError, StoreCorruptError, StoreUnavailableError
from reconciler.store.location import Location, backend, open_readonly
from reconciler.store.sqlite import check_integrity, new_file
from reconciler.store.state_directory import StateDirectory


@dataclass(frozen=True, slots=True)
class Moved:
    """`rows` by table; `sealed`: master key -> credentials that only it opens; `key`: the one that is at hand, if any."""

    source: str
    target: str
    schema: int
    rows: Mapping[str, int]
    sealed: Mapping[str, int]
    key: str | None = None


def copy_installation(state_dir: Path, url: Secret, settings: Settings, env: Mapping[str, str], tell: Tell) -> Moved:
    """All of a state directory that nobody works on into an empty PostgreSQL database. Raises StoreError, SettingsError."""
    state = StateDirectory(state_dir)
    if not state.database.is_file():
        raise StoreUnavailableError(f"{state.database} does not exist; name the state directory that is to be copied")
    with state, _reading(state.database) as source:
        given = _same_key(source, state, settings, env)
        with _filling(url) as target:
            return _moved(source, target, tell, given)


def back_up(location: Location, file: Path, tell: Tell) -> Moved:
    """Everything, as it is at one moment, into a new file; also while daemons work. Raises StoreError."""
    with _reading(location) as source, _new(file) as target:
        return _moved(source, target, tell, None)


def restore(file: Path, location: Location, settings: Settings, env: Mapping[str, str], tell: Tell) -> Moved:
    """A backup into a place without a database, or an empty one, where no daemon works. Raises StoreError, SettingsError."""
    if not file.is_file():
        raise StoreUnavailableError(f"{file} does not exist; name a file that `reconciler database backup` wrote")
    given = _key_there(location, settings, env)
    with _reading(file) as source:
        _check(source, file)
        if isinstance(location, Path):
            with StateDirectory(location.parent), _new(location) as target:
                return _moved(source, target, tell, given)
        with _filling(location) as target:
            return _moved(source, target, tell, given)


def _moved(source: Side, target: Side, tell: Tell, key: str | None) -> Moved:
    sealed = inventory.sealed_with(source.tx)
    rows = copy(source, target, tell)
    return Moved(source.where, target.where, source_version(source), rows, sealed, key)


@contextmanager
def _reading(location: Location) -> Iterator[Side]:
    with open_readonly(location) as tx:
        yield Side(tx, backend(location).where)


@contextmanager
def _new(file: Path) -> Iterator[Side]:
    with new_file(file) as session, session.transaction("guarded") as tx:
        yield Side(tx, str(file))


@contextmanager
def _filling(url: Secret) -> Iterator[Side]:
    """A daemon that starts meanwhile waits for its tables, and then finds everything there."""
    place = backend(url)
    with closing(place.visit(is_reader=False)) as session, session.transaction("guarded") as tx:
        side = Side(tx, place.where)
        if _is_led(side):
            raise StateLockedError(f"a daemon works on {place.where}; stop it first, or name another database")
        yield side


def _is_led(side: Side) -> bool:
    has_leases = side.tx.value("SELECT to_regclass('lease') IS NOT NULL")
    return bool(has_leases) and leases.holder(side.tx, leases.CONTROLLER, side.tx.now()) is not None


def _check(source: Side, file: Path) -> None:
    try:
        check_integrity(source.tx, file)
    except StoreCorruptError as error:
        why = str(error.__cause__ or error).splitlines()[-1]
        raise StoreCorruptError(
            f"{file} is damaged or no backup, nothing was restored; take another one ({why})"
        ) from None
    source_version(source)


def _same_key(source: Side, state: StateDirectory, settings: Settings, env: Mapping[str, str]) -> str | None:
    """The key that is given here, once it is known to be that of the installation; None where none is given."""
    own = own_key_file(state.keys)
    expected = set(inventory.sealed_with(source.tx)) or ({key_id(read_keys(own)[0])} if own.is_file() else set())
    given = [key_id(key) for key in given_keys(settings, env)]
    if not given:
        return None
    if not expected <= set(given):
        raise SettingsError(
            f"the master key given here is {' and '.join(given)}, that of {state.path} is "
            f"{' and '.join(sorted(expected))}; give its own: RECONCILER_MASTER_KEY_FILE={own}"
        )
    return given[0]


def _key_there(location: Location, settings: Settings, env: Mapping[str, str]) -> str | None:
    """The key that a daemon would use there."""
    keys = given_keys(settings, env)
    own = own_key_file(location.parent / "keys") if isinstance(location, Path) else None
    if not keys and own is not None and own.is_file():
        keys = read_keys(own)
    return key_id(keys[0]) if keys else None
