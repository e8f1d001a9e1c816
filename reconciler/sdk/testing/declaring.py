"""Checks of what a connector declares, and of its probe.

Called by pytest through `Conformance`.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from reconciler.model.secret import Secret
from reconciler.sdk.contract import Connector, Finds, NoAuth, Repeat, Settings
from reconciler.sdk.errors import ConnectorError, ForbiddenError, UnauthorizedError
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.sdk.testing.faults import reset
from reconciler.sdk.testing.room import START, auth_settings
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import trial

HEAVY = (
    "httpx", "httpcore", "aiohttp", "requests", "urllib3", "aiosmtplib", "bonsai", "ldap3", "starlette", "uvicorn", "dbos",
    "sqlalchemy", "cryptography", "jsonschema",
)  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SECRET_NAME = re.compile(r"(^|_)(password|passphrase|secret|token|private_key|api_key|signing_key|routing_key)$")


class Declaring:
    """What can be said about a connector without asking the remote much."""

    case: Case

    async def test_names_are_in_order(self) -> None:
        kind = self.case.connector
        for names in ([e.name for e in kind.entities], [c.name for c in kind.channels]):
            assert len(names) == len(set(names)), "a name is declared twice"
            assert all(_NAME.fullmatch(name) for name in names)
        assert kind.type.isidentifier()
        assert kind.title
        assert kind.__doc__ or sys.modules[kind.__module__].__doc__, "say what comes in, the credential and the limits"

    async def test_channels_are_whole(self) -> None:
        kind = self.case.connector
        for channel in kind.channels:
            known = channel.fields.model_fields
            assert not channel.text_field or channel.text_field in known, f"{channel.name}: text_field is no field"
            assert set(channel.html_fields) <= known.keys(), f"{channel.name}: html_fields are no fields"
            assert channel.repeat is not Repeat.FIND or issubclass(kind, Finds), f"{channel.name}: who finds?"

    async def test_secrets_are_marked_and_settings_closed(self) -> None:
        kind = self.case.connector
        models = [kind.Config, *kind.auth_types, *(c.fields for c in kind.channels)]
        for model in models:
            for where, annotation in _leaves(model):
                if _SECRET_NAME.search(where) and annotation is str:
                    pytest.fail(f"{model.__name__}.{where} is named like a secret but is not of type Secret")
            for part in (model, *_within(model)):
                assert issubclass(part, Settings), (
                    f"{part.__name__} must be Settings: they convert nothing, `yes` is no true"
                )
                assert part.model_config.get("extra") == "forbid", f"{part.__name__} must refuse unknown fields"

    async def test_every_auth_type_has_an_example_and_every_alias_works(self) -> None:
        kind = self.case.connector
        with self.case.simulator(_never) as sim:
            given = [auth_settings(kind, auth) for auth in self.case.auths(sim)]
            assert {type(g) for g in given} == set(kind.auth_types), "Case.auths() must have one for every auth type"
            for auth, settings in zip(self.case.auths(sim), given, strict=True):
                for alias in settings.aliases:
                    assert auth_settings(kind, {**auth, "type": alias}) == settings
                shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
                assert CANARY not in shown, "a secret of the auth settings is readable: use the type Secret"
                assert isinstance(settings, NoAuth) or CANARY in f"{auth}", "secrets of a case begin with CANARY"

    async def test_unknown_settings_are_refused(self) -> None:
        with self.case.simulator(_never) as sim, pytest.raises(ValidationError):
            self.case.connector.Config.model_validate({**self.case.config(sim), "no_such_setting": 1})

    async def test_importing_it_imports_no_heavy_library(self) -> None:
        with _without(HEAVY):
            _import_again(self.case.connector)

    async def test_probe_knows_who_we_are(self) -> None:
        with self.case.simulator(_never) as sim:
            count = len(self.case.auths(sim))
        for index in range(count):
            async with trial(self.case, auth=lambda sim, i=index: self.case.auths(sim)[i]) as t:  # type: ignore[misc]
                for entity in t.connector.entities_of(t.connector.config):
                    t.seed(entity, 1)
                probe = await t.connector.probe()
                assert probe.identity, "say whose credential this is"
                assert probe.missing == ()
                assert not t.bench.leaks(CANARY, probe)

    async def test_probe_with_a_wrong_credential(self) -> None:
        async with trial(self.case, auth=self.case.wrong_auth) as t:
            with pytest.raises(UnauthorizedError) as caught:
                await t.connector.probe()
            assert not t.bench.leaks(CANARY, caught.value)

    async def test_probe_says_what_is_missing(self) -> None:
        usual = next((e for e in self.case.connector.entities if e.by_default), None)
        if usual is None:
            pytest.skip("this connector reads nothing by default")
        async with trial(self.case) as t:
            self.case.deny(t.sim, usual)
            try:
                probe = await t.connector.probe()
            except ForbiddenError:
                return
            assert probe.missing, f"reading {usual.name} is refused, but the probe says that all is well"

    async def test_probe_of_a_remote_that_is_down(self) -> None:
        async with trial(self.case) as t:
            if not isinstance(t.sim, Simulator):
                pytest.skip("faults of HTTP do not apply to this remote")
            t.sim.faults.add(reset(), times=None)
            with pytest.raises(ConnectorError) as caught:
                await t.connector.probe()
            assert not isinstance(caught.value, UnauthorizedError), "an outage must not stop the integration for good"
            assert not t.bench.leaks(CANARY, caught.value)

    async def test_revoke_gives_back_what_was_obtained(self) -> None:
        async with trial(self.case, auth=self.case.renewable_auth) as t:
            await t.connector.probe()
            await t.connector.revoke()
            assert not t.bench.tokens.kept or not self.case.revokes, "revoked tokens must be dropped"


def _never() -> datetime:
    return START


def _leaves(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Every field, however deep, with its type less Optional."""
    for name, field in model.model_fields.items():
        for kind in _parts(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from ((f"{name}.{where}", deeper) for where, deeper in _leaves(kind))
            elif kind in (str, Secret):
                yield name, kind


def _within(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The models of its fields, however deep; a model may hold itself."""
    found: set[type[BaseModel]] = set()
    left = [model]
    while left:
        kinds = [kind for field in left.pop().model_fields.values() for kind in _parts(field.annotation)]
        fresh = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)} - found
        found |= fresh
        left += fresh
    return found


def _parts(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    if inner and get_origin(annotation) is not type:
        for part in inner:
            yield from _parts(part)
    else:
        yield annotation


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """These libraries cannot be imported anew."""
    kept = {n: m for n, m in sys.modules.items() if n.split(".")[0] in names}
    for name in kept:
        del sys.modules[name]
    blocked: dict[str, Any] = dict.fromkeys(names)
    sys.modules.update(blocked)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def _import_again(kind: type[Connector[Any, Any]]) -> ModuleType:
    """Execute the connector's module a second time, under another name."""
    source = sys.modules[kind.__module__].__file__
    assert source is not None
    name = f"{kind.__module__}_imported_again"
    inside = [str(Path(source).parent)] if source.endswith("__init__.py") else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.fail(f"importing {kind.__module__} imports a heavy library: {error}; import it where it is used")
    finally:
        del sys.modules[name]
    return module
