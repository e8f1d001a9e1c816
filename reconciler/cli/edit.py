"""`reconciler edit NAME`: the manifest in one's editor, and what was changed as a commit, over the API.

Secrets are masks in it: a mask that stays keeps what is there, a new value in its place is encrypted before it is committed.
Where somebody else changed the manifest meanwhile nothing is done. A text that is refused is kept in its file.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.cli.change_shown import add_change, show, wait_of
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, as_ref, client_of
from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.api.integrations import IntegrationDetail

_HEAD = (
    "# {ref}: what stands as ******** is a secret that stays as it is; write a new value in its place to change it.\n"
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_change(parser)
    examples(parser, "reconciler edit servicenow-prod", "EDITOR='code --wait' reconciler edit it-ops/chat")


@answered
def run(args: argparse.Namespace) -> int:
    from reconciler.desired.editor import EditorError, edited, scratch

    wait = wait_of(args)
    with client_of(args) as client:
        found = client.integrations.get(as_ref(args.name))
        before = text_of(found)
        file = scratch(before)
        try:
            after = edited(file, os.environ)
            if after == before:
                print("nothing was changed")
            else:
                done = client.integrations.replace(found.id, manifest_in(after), if_match=found.etag, wait=wait)
                show(done, args)
        except EditorError as error:
            _keep(file, before)
            raise CommandError(str(error)) from None
        except BaseException:
            _keep(file, before)
            raise
    file.unlink()
    return 0


def _keep(file: Path, before: str) -> None:
    """What somebody has typed is not thrown away."""
    if file.exists() and file.read_bytes() != before.encode():
        print(f"your text is kept in {file}")
    else:
        file.unlink(missing_ok=True)


def text_of(found: "IntegrationDetail") -> str:
    """As YAML that reads back as the very same."""
    from reconciler.desired.writing.render import block

    metadata = found.metadata.model_dump(mode="json")
    return (
        _HEAD.format(ref=f"{found.workspace}/{found.name}")
        + block({"metadata": metadata, "spec": found.spec}, 0)
        + "\n"
    )


def manifest_in(text: str) -> dict[str, Any]:
    """Raises CommandError with the line that cannot be read."""
    from reconciler.desired.yaml_source import read_yaml

    file = read_yaml(text.encode())
    for problem in [*file.problems, *(p for d in file.documents for p in d.problems)]:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        raise CommandError(f"line {problem.line}, column {problem.column}: {problem.message}{remedy}")
    if len(file.documents) != 1 or not isinstance(file.documents[0].tree, dict):
        raise CommandError("expected one manifest with metadata and spec")
    tree: dict[str, Any] = file.documents[0].tree
    return tree
