"""Tokens that workspaces declare as hashes, which whoever reads the repository can see."""

from reconciler.control.declaring import Declaring
from reconciler.model.access import Permission, hash_of
from reconciler.model.manifest import Workspace
from reconciler.model.state import DesiredState
from tests.integration.serve.installation import Installation

CLEAR = "rct_declared_in_git"


def declared(*names: str) -> DesiredState:
    token = {"name": "ci", "sha256": hash_of(CLEAR), "permissions": [str(Permission.INTEGRATION_VIEW)]}
    document = {"apiVersion": "reconciler.dev/v1", "kind": "Workspace", "spec": {"tokens": [token]}}
    found = {name: Workspace.model_validate({**document, "metadata": {"name": name}}, strict=False) for name in names}
    return DesiredState("r", {}, found)


async def test_a_hash_that_another_workspace_declares_too_stays_where_it_was(installation: Installation) -> None:
    declaring = Declaring(installation.database, installation.clock)
    async with installation.client(token=CLEAR) as client:
        for names, owner in ((("it",), "it"), (("aa", "it", "zz"), "it"), (("aa", "zz"), "aa"), (("zz",), "zz")):
            await declaring.take(declared(*names))
            installation.clock.add(2)
            assert (await client.get("/v1/whoami")).json()["workspace"] == owner
