"""Many texts as one parameter: what stands for them in a statement, and how they are handed over, on either database."""

import json
from collections.abc import Iterable
from typing import Any

from reconciler.store.database import Tx


def among(tx: Tx) -> str:
    """After a column: it is one of `:names`."""
    return "IN (SELECT value FROM json_each(:names))" if tx.dialect == "sqlite" else "= any(:names)"


def many(tx: Tx, texts: Iterable[str]) -> Any:
    """The value of `:names`."""
    return json.dumps(list(texts)) if tx.dialect == "sqlite" else list(texts)
