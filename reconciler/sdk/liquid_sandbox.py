"""The Liquid environment behind `template`: which tags and filters exist, and the budget that bounds one rendering.

Known by `template` only, which imports it at first use. One unit of the budget is about one character touched: a loop
iteration costs the length of the template, a filter what it takes and gives. The library's own limits (output, locals,
nesting) stay on behind it. Filters whose result may be far larger than their arguments are sized before they run.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import wraps
from typing import Any, cast

from liquid import BoundTemplate, Environment, RenderContext
from liquid.builtin.output import OutputNode
from liquid.builtin.tags import (
    assign_tag,
    capture_tag,
    case_tag,
    comment_tag,
    for_tag,
    if_tag,
    inline_comment_tag,
    unless_tag,
)
from liquid.exceptions import FilterArgumentError, LoopIterationLimitError, OutputStreamLimitError, UnknownFilterError
from liquid.stringify import to_liquid_string
from liquid.token import TOKEN_WORD, Token
from liquid.undefined import is_undefined

BUDGET = 5_000_000
LONGEST_OUTPUT = 256 * 1024
LONGEST_VALUE = 256 * 1024
MOST_ITEMS = 10_000
LARGEST_NUMBER = 2**128
_OVERHEAD = 50
_TAGS = (
    assign_tag.AssignTag, capture_tag.CaptureTag, case_tag.CaseTag, comment_tag.CommentTag, for_tag.ForTag, for_tag.BreakTag,
    for_tag.ContinueTag, if_tag.IfTag, inline_comment_tag.InlineCommentTag, unless_tag.UnlessTag,
)  # fmt: skip
_FILTERS = frozenset({
    "abs", "append", "at_least", "at_most", "capitalize", "ceil", "compact", "concat", "default", "divided_by",
    "downcase", "escape", "first", "floor", "join", "last", "lstrip", "map", "minus", "modulo", "plus", "prepend",
    "remove", "remove_first", "remove_last", "replace", "replace_first", "replace_last", "reverse", "round", "rstrip",
    "size", "slice", "sort", "sort_natural", "split", "squish", "strip", "strip_html", "strip_newlines", "sum",
    "times", "truncate", "truncatewords", "uniq", "upcase", "url_encode", "where",
})  # fmt: skip
_QUADRATIC = frozenset({"uniq", "strip_html"})
_PSEUDO_TAGS = ("content", "output", "illegal")


class BoundedContext(RenderContext):
    """A rendering in progress, with what is left of its budget."""

    left = BUDGET

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise LoopIterationLimitError("too much work for one text: shorten its loops", token=None)

    def raise_for_loop_limit(self, length: int = 1) -> None:
        super().raise_for_loop_limit(length)
        self.spend(length * cast("SandboxTemplate", self.template).weight)


class SandboxTemplate(BoundTemplate):
    """A parsed text. The context is always plain JSON values."""

    context_class = BoundedContext
    weight = _OVERHEAD
    free_names: frozenset[str] = frozenset()

    def render_bounded(self, context: Mapping[str, Any]) -> str:
        buffer = self._get_buffer()
        self.render_with_context(self._context(context), buffer)
        return buffer.getvalue()

    def value_bounded(self, context: Mapping[str, Any]) -> Any:
        if self.env.autoescape:
            return self.render_bounded(context)
        outputs = [node for node in self.nodes if isinstance(node, OutputNode)]
        if len(outputs) != 1 or any(str(node).strip() for node in self.nodes if node is not outputs[0]):
            return self.render_bounded(context)
        value = outputs[0].expression.evaluate(self._context(context))
        if isinstance(value, range):
            return to_liquid_string(value, autoescape=False)
        return None if is_undefined(value) else value

    def _context(self, context: Mapping[str, Any]) -> BoundedContext:
        return BoundedContext(self, globals=context)


class SandboxEnvironment(Environment):
    """Strict, without file access, and with `and`, `or`, `not` and parentheses in conditions."""

    block_nesting_limit = 20
    context_depth_limit = 30
    loop_iteration_limit = MOST_ITEMS
    local_namespace_limit = 4 * LONGEST_VALUE
    output_stream_limit = LONGEST_OUTPUT
    template_class = SandboxTemplate
    logical_not_operator = True
    logical_parentheses = True

    def from_string(self, *args: Any, **more: Any) -> SandboxTemplate:
        template = cast("SandboxTemplate", super().from_string(*args, **more))
        template.weight = _OVERHEAD + len(args[0])
        found = template.analyze(include_partials=False)
        # The library looks filters up when it renders: too late for whoever wrote the text.
        for name, spans in found.filters.items():
            if name not in self.filters:
                raise _unknown_filter(name, self.filters, args[0], spans[0].index)
        # First names that neither `assign` nor `for` brings into being.
        template.free_names = frozenset(found.globals)
        return template

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        kept = {tag.name for tag in _TAGS}
        self.tags = {
            name: tag for name, tag in self.tags.items() if name in kept or type(tag).__module__.endswith(_PSEUDO_TAGS)
        }
        self.filters = {name: bounded(name, self.filters[name]) for name in sorted(_FILTERS)}
        for name, own in (("date", date), ("json", as_json)):
            self.filters[name] = bounded(name, own)


def _unknown_filter(name: str, known: Iterable[str], source: str, index: int) -> UnknownFilterError:
    near = get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    return UnknownFilterError(f"there is no filter {name[:60]}{hint}", token=Token(TOKEN_WORD, name, index, source))


def bounded(name: str, given: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, paid for: before it runs by what it takes, afterwards by what it gives."""

    @wraps(given)
    def run(value: Any, *args: Any, context: BoundedContext, **named: Any) -> Any:
        size = sum(map(_size, (value, *args)))
        context.spend(size * size if name in _QUADRATIC else size)
        _check_growth(name, value, args)
        if getattr(given, "with_context", False):
            named["context"] = context
        if getattr(given, "with_environment", False):
            named["environment"] = context.env
        result = given(value, *args, **named)
        context.spend(_size(result))
        return result

    run.with_context = True  # type: ignore[attr-defined]
    run.with_environment = False  # type: ignore[attr-defined]
    return run


def _size(value: Any) -> int:
    """The cost of touching `value`; raises where it is larger than any text or list of a message needs to be."""
    if isinstance(value, str):
        if len(value) > LONGEST_VALUE:
            raise OutputStreamLimitError(f"a text of more than {LONGEST_VALUE} characters", token=None)
        return _OVERHEAD + len(value)
    if isinstance(value, list | tuple | range | dict):
        if len(value) > MOST_ITEMS:
            raise OutputStreamLimitError(f"a list of more than {MOST_ITEMS} items", token=None)
        return _OVERHEAD + len(value)
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise OutputStreamLimitError("a number with more than 38 digits", token=None)
    return _OVERHEAD


def _check_growth(name: str, value: Any, args: tuple[Any, ...]) -> None:
    grown = 0
    if name == "replace" and len(args) == 2:
        old, new = str(args[0]), str(args[1])
        text = str(value)
        grown = (text.count(old) if old else len(text) + 1) * len(new)
    elif name == "join" and isinstance(value, list | tuple | range) and args:
        grown = len(value) * len(str(args[0]))
    if grown > LONGEST_VALUE:
        raise OutputStreamLimitError(f"a text of more than {LONGEST_VALUE} characters", token=None)


def date(value: Any, pattern: Any) -> str:
    """A time (RFC 3339 text, seconds since 1970, or `now`-free input only) in UTC, as strftime spells it.

    The library's own filter reads `now` and the machine's time zone: the same event would render differently elsewhere.
    """
    at = _time(value)
    if at is None:
        return "" if value is None or is_undefined(value) else str(value)
    seconds = str(int(at.timestamp()))  # strftime leaves %s to the C library, which takes `at` for local time
    return at.strftime(re.sub("%%|%s", lambda found: seconds if found[0] == "%s" else "%%", str(pattern)[:200]))


def _time(value: Any) -> datetime | None:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    if at is None:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def as_json(value: Any) -> str:
    """The value as JSON text; missing is null."""
    if is_undefined(value):
        return "null"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise FilterArgumentError("not a JSON value", token=None) from error


ENVIRONMENT = SandboxEnvironment(strict_filters=True)
HTML_ENVIRONMENT = SandboxEnvironment(strict_filters=True, autoescape=True)
