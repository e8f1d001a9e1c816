"""The daemon's own log: structlog, as JSON for machines or aligned for a console, redacted as the last step."""

import logging
import sys
from typing import Any, TextIO

import structlog

from reconciler.sdk.redact import Redactor
from reconciler.settings import Log

_QUIET = ("dbos", "sqlalchemy", "httpx", "httpcore", "uvicorn", "watchfiles", "asyncio")


def configure(settings: Log, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Call once, in the composition root. Libraries speak through the same processors, from WARNING on."""
    target = stream or sys.stderr

    def redact(_: Any, __: str, event: Any) -> Any:
        return redactor.value(event)

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    is_json = settings.format == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if is_json
        else structlog.dev.ConsoleRenderer(
            colors=target.isatty(), pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
        )
    )
    level = getattr(logging, settings.level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_drop_meta, redact, renderer])
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _drop_meta(_: Any, __: str, event: Any) -> Any:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event
