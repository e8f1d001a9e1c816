"""Texts with placeholders and conditions that users write: Liquid in a sandbox, bounded in work and output.

In: text from a manifest. Out: `Template`, `Condition` and `FieldMap`, compiled once and used for many events. Validation
compiles and checks names; routing asks `Condition.matches`; delivery renders.

Why Liquid: it was made for texts that strangers write. There are no attributes, calls or imports to escape through, and
every cost can be counted; Jinja's sandbox lets `'a' * 10**8` run. What the library does not bound by itself is bounded
here: one budget per rendering pays for loop iterations and for the size of what filters take and give.

A missing field renders as nothing and is nil in a condition: vendors leave out empty fields. A first name that does not
exist at all (`recrod.number`) is a mistake, which `unknown_names` tells to validation. What is put into HTML is escaped
here, because afterwards nobody can tell it from the author's own; text in another syntax of a channel is escaped by the
connector. Not done: includes; reading anything but the context.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.sdk.liquid_sandbox import SandboxTemplate

NAMES = ("record", "previous", "changed", "event", "integration")
LONGEST_SOURCE = 20_000
_PLACEHOLDER = re.compile(r"\{\{|\{%")


class TemplateError(ValueError):
    """A template that does not compile or does not render; `line` and `column` count from 1 inside the text."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Template:
    """A text with placeholders."""

    source: str
    _compiled: "SandboxTemplate"

    def render(self, context: Mapping[str, Any]) -> str:
        """The text for one event; raises TemplateError."""
        with _translated():
            return self._compiled.render_bounded(context)

    def value(self, context: Mapping[str, Any]) -> Any:
        """As `render`, but a text that is exactly one `{{ ... }}` keeps the type of its value; missing is None."""
        with _translated():
            return self._compiled.value_bounded(context)

    def unknown_names(self, known: Iterable[str] = NAMES) -> tuple[str, ...]:
        """First names that stand for nothing, so that `recrod.number` is found before the first event."""
        return tuple(sorted(self._compiled.free_names - set(known)))


@dataclass(frozen=True, slots=True)
class Condition:
    """A Liquid condition, such as `record.priority == '1' and changed contains 'state'`."""

    source: str
    _compiled: "SandboxTemplate"

    def matches(self, context: Mapping[str, Any]) -> bool:
        """Whether it holds for one event; raises TemplateError, e.g. where text is compared with a number by `<`."""
        with _translated(offset=len(_IF)):
            return bool(self._compiled.render_bounded(context))

    def unknown_names(self, known: Iterable[str] = NAMES) -> tuple[str, ...]:
        return tuple(sorted(self._compiled.free_names - set(known)))


@dataclass(frozen=True, slots=True)
class FieldMap:
    """The `map` of a synchronization: strings are templates at any depth, everything else stays as it is."""

    fields: Mapping[str, Any]

    def render(self, context: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _filled(value, context) for name, value in self.fields.items()}


def is_template(text: object) -> bool:
    """Whether `text` holds a placeholder or tag; otherwise it is a constant."""
    return isinstance(text, str) and _PLACEHOLDER.search(text) is not None


@lru_cache(maxsize=4096)
def compile_template(text: str, *, is_html: bool = False) -> Template:
    """Raises TemplateError where `text` is no Liquid, is too long, or uses a tag or filter that is not there.

    In a text that `is_html`, values are escaped, and it always renders as text.
    """
    return Template(text, _compiled(text, is_html=is_html))


_IF, _END = "{% if ", " %}1{% endif %}"


@lru_cache(maxsize=4096)
def compile_condition(text: str) -> Condition:
    """Raises TemplateError; a condition is an expression only, so tags and placeholders in it are refused."""
    for mark in ("{%", "%}", "{{", "}}"):
        if mark in text:
            line, column = _position(text, text.index(mark))
            raise TemplateError(f"a condition is an expression without {mark}", line, column)
    if not text.strip():
        raise TemplateError("the condition is empty")
    return Condition(text, _compiled(f"{_IF}{text}{_END}", offset=len(_IF)))


def compile_map(fields: Mapping[str, Any], html_fields: Iterable[str] = ()) -> FieldMap:
    """Raises TemplateError for the first string that does not compile."""
    html = frozenset(html_fields)
    return FieldMap({name: _prepared(value, name in html) for name, value in fields.items()})


def _prepared(value: Any, is_html: bool) -> Any:
    if isinstance(value, str):
        return compile_template(value, is_html=is_html) if is_template(value) else value
    if isinstance(value, Mapping):
        return {key: _prepared(item, is_html) for key, item in value.items()}
    return [_prepared(item, is_html) for item in value] if isinstance(value, list | tuple) else value


def _filled(value: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(value, Template):
        return value.value(context)
    if isinstance(value, Mapping):
        return {key: _filled(item, context) for key, item in value.items()}
    return [_filled(item, context) for item in value] if isinstance(value, list) else value


def _compiled(text: str, offset: int = 0, *, is_html: bool = False) -> "SandboxTemplate":
    if len(text) > LONGEST_SOURCE + 64:
        raise TemplateError(f"longer than {LONGEST_SOURCE} characters")
    # Imported at first use: most commands never see a template, and the library brings asyncio and more with it.
    from reconciler.sdk.liquid_sandbox import ENVIRONMENT, HTML_ENVIRONMENT

    with _translated(offset):
        return (HTML_ENVIRONMENT if is_html else ENVIRONMENT).from_string(text)


def _position(text: str, index: int) -> tuple[int, int]:
    before = text[: max(index, 0)]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _translated:  # noqa: N801 - reads as a verb at its `with`
    """Turns what the library raises into TemplateError, with the place in the user's own text."""

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from liquid.exceptions import LiquidError

        if isinstance(error, LiquidError):
            raise self._located(error) from None
        if isinstance(error, RecursionError):
            raise TemplateError("nested too deeply") from None
        if isinstance(error, ArithmeticError | LookupError | TypeError | AttributeError) or (
            isinstance(error, ValueError) and not isinstance(error, TemplateError)
        ):
            raise TemplateError(f"cannot be evaluated: {type(error).__name__}") from None

    def _located(self, error: Any) -> TemplateError:
        message = str(error.message or type(error).__name__).splitlines()[0][:200]
        token = error.token
        if token is None or token.start_index < 0:
            return TemplateError(message)
        line, column = _position(token.source, token.start_index)
        return TemplateError(message, line, max(1, column - self._offset if line == 1 else column))
