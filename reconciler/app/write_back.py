"""The writers to Git, one for each source, made from the settings and what the daemon holds.

In: settings, the book with what was checked last, keys, a clock, an HTTP client. Out: `Writing` by the name of its source, also
for sources that are not written to: those show what to commit. Raises SettingsError before anything is started.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from reconciler.app.parts import forge_of, source_settings, write_rules
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.validate import Inputs, Validated
from reconciler.desired.writing.writing import Means, Writing
from reconciler.model.clock import Clock
from reconciler.sdk.contract import Http
from reconciler.settings import Settings, SettingsError


@dataclass(frozen=True, kw_only=True)
class Desk:
    """`cache` is where the sources have their mirrors; `checked` gives what was checked last of a source."""

    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    inputs: Mapping[str, Inputs]
    checked: Callable[[str], Validated | None]
    keyring: Callable[[], Keyring]
    cache: Path
    clock: Clock
    random: Random
    http: Http


def writers(desk: Desk) -> dict[str, Writing]:
    """Of all sources. Raises SettingsError."""
    made = {}
    for source in desk.settings.sources:
        try:
            made[source.name] = Writing(
                Means(
                    source=source_settings(source, desk.env),
                    rules=write_rules(source),
                    inputs=desk.inputs[source.name],
                    cache=desk.cache,
                    inherited=desk.env,
                    keyring=desk.keyring,
                    known=partial(desk.checked, source.name),
                    clock=desk.clock,
                    random=desk.random,
                    forge=forge_of(source, desk.env, desk.http),
                )
            )
        except ValueError as error:
            raise SettingsError(str(error)) from None
    return made
