"""Checks of consent: the authorization code flow of a connector that declares one, with a person who says yes at once.

In: a case, one of whose `auths` is of such a kind. Part of the conformance kit; `allow` is also what lets every other check
work with that kind of auth. The simulator's authorization page must answer with a redirect, as the vendor's does after the
last click.
"""

from typing import Any

import pytest

from reconciler.model.condition import Reason
from reconciler.sdk.authorize import AuthorizationCode
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.testing.case import Case
from reconciler.sdk.testing.room import auth_settings
from reconciler.sdk.testing.trial import Trial, trial


class Consenting:
    """Part of `Conformance`."""

    case: Case

    def _index(self, sim: Any) -> int:
        """Of the first of the case's `auths` that a person has to allow."""
        given = [auth_settings(self.case.connector, auth) for auth in self.case.auths(sim)]
        found = [n for n, settings in enumerate(given) if isinstance(settings, AuthorizationCode)]
        if not found:
            pytest.skip("nobody has to allow this connector anything")
        return found[0]

    def _auth(self, sim: Any) -> Any:
        return self.case.auths(sim)[self._index(sim)]

    async def test_without_consent_a_person_is_asked_for_and_nothing_is_sent(self) -> None:
        async with trial(self.case, auth=self._auth, is_allowed=False) as t:
            before = len(t.sim.requests)
            with pytest.raises(UnauthorizedError, match=r"reconciler authorize kit/under-test") as caught:
                await t.connector.probe()
            assert caught.value.why is Reason.AWAITING_AUTHORIZATION
            assert len(t.sim.requests) == before

    async def test_consent_gives_tokens_that_nobody_sees(self) -> None:
        async with trial(self.case, auth=self._auth) as t:
            self._seed(t)
            assert (await t.connector.probe()).missing == ()
            tokens = [token for token, _ in t.bench.tokens.kept.values()]
            assert tokens, "nothing was kept in room.tokens"
            for token in tokens:
                assert not t.bench.leaks(token.reveal())

    async def test_what_was_allowed_is_given_back(self) -> None:
        async with trial(self.case, auth=self._auth) as t:
            self._seed(t)
            await t.connector.probe()
            kept = dict(t.bench.tokens.kept)
            await t.connector.revoke()
            assert t.bench.tokens.kept == {}, "what was given back is of no use any more"
            if self.case.revokes:
                t.bench.tokens.kept.update({n: one for n, one in kept.items() if not n.startswith("refresh")})
                with pytest.raises(UnauthorizedError):
                    await t.connector.probe()

    def _seed(self, t: Trial) -> None:
        for entity in t.connector.entities_of(t.connector.config):
            t.seed(entity, 1)
