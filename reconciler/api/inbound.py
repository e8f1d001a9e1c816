"""Answers to what remotes send to us."""

from typing import Literal

from pydantic import Field

from reconciler.api.integrations import Shown


class InboundTaken(Shown):
    status: Literal["accepted", "duplicate"]
    receipt_id: str = Field(description="For the log; the request is stored.")
