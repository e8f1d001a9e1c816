"""A typed client of the API, for programs and for our own commands: `Client` waits, `AsyncClient` is for asyncio.

Both have the same calls in the same groups, such as `client.integrations.get("servicenow-prod")`; they are made from the OpenAPI
document. Shapes of requests and answers are those of `reconciler.api`. docs/client.md tells how it is used.
"""

from reconciler.client.ask import Reply
from reconciler.client.clients import AsyncClient, Client
from reconciler.client.conversation import Patience
from reconciler.client.errors import (
    AnswerError,
    ApiError,
    ChangedError,
    ClientError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RateLimitedError,
    SettingError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)

__all__ = [
    "AnswerError",
    "ApiError",
    "AsyncClient",
    "ChangedError",
    "Client",
    "ClientError",
    "ConflictError",
    "ForbiddenError",
    "InvalidError",
    "NotFoundError",
    "Patience",
    "RateLimitedError",
    "Reply",
    "SettingError",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
]
