"""`reconciler authorize --server`: the same over the API. The remote sends the person's browser to the daemon there.

With --paste the address that the browser ended up at is taken there from here. Nothing of it is repeated.
"""

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.cli.authorize import pasted, show_way, warn_of_way_back
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.server_reconcile import Waiting, await_done, tell, until_settled
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.client import Client
    from reconciler.model.authorization import Returned

CALLBACK = "/v1/oauth/callback"


def run(args: argparse.Namespace, patience: timedelta) -> int:
    with client_of(args) as client:
        one = client.integrations.get_status(as_ref(args.name))
        ref = f"{one.workspace}/{one.name}"
        asked = client.credentials.begin_authorization(one.id)
        if asked.url is None:
            raise CommandError("the answer that showed where to go was lost; begin anew")
        show_way(ref, asked.url, asked.expires_at)
        if args.paste:
            _finish(client, asked.id, pasted(asked.redirect_uri))
        else:
            warn_of_way_back(asked.redirect_uri)
        waiting = Waiting(args.timeout, patience)
        _await_exchange(client, asked.id, waiting)
        await_done(client, client.git.reconcile_now({"integration": one.id}), waiting)
        found = until_settled(client, ref, waiting)
    if not found:
        raise CommandError("Git does not name it any more")
    return tell(found)


def _finish(client: "Client", attempt: str, returned: "Returned") -> None:
    """As the browser would have done. Sent again after a lost answer it is refused, though it counted."""
    from reconciler.client import ApiError

    brought = {"state": returned.state, "code": returned.code, "error": returned.error}
    told = brought | {"error_description": returned.description}
    try:
        client.request("GET", CALLBACK, query={name: text for name, text in told.items() if text})
    except ApiError as error:
        if client.credentials.get_authorization(attempt).status == "waiting":
            why = "it is not of this attempt, or too old"
            raise CommandError(f"the server does not take that address ({error.status}): {why}; begin anew") from None


def _await_exchange(client: "Client", attempt: str, waiting: Waiting) -> None:
    while (found := client.credentials.get_authorization(attempt)).status == "waiting":
        waiting.go_on(found.message)
    if found.status != "authorized":
        raise CommandError(found.message)
    print(f"authorized{f'; {found.message}' if found.message else ''}", flush=True)
