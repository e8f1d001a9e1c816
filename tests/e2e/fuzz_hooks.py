"""What the fuzzer of the API has to know beyond the document; loaded by schemathesis, see test_api_fuzz."""

from itertools import count
from typing import Any

import schemathesis

Case = schemathesis.Case[Any]
OPAQUE = ("cursor", "entity", "sync_job_id")
"""Any text fits the document; which ones there are only answers tell, and others are refused (400)."""
_numbers = count(1)


@schemathesis.hook
def map_case(context: object, case: Case) -> Case:
    """Valid requests go without what is opaque; invalid ones keep it."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        for name in OPAQUE:
            for part in (case.query, case.body):
                if isinstance(part, dict):
                    part.pop(name, None)
        if case.headers:
            case.headers.pop("Last-Event-ID", None)
    return case


@schemathesis.hook
def before_call(context: object, case: Case, kwargs: object) -> None:
    """Each from an address of its own: one address may be wrong about a token ten times a minute."""
    number = next(_numbers)
    case.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
