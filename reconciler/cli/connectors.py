"""`reconciler connectors [TYPE]`: which connectors there are and what each can do, made from the code itself."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.names import meant
from reconciler.cli.options import add_output, examples
from reconciler.cli.store_access import CommandError, guarded

if TYPE_CHECKING:
    from reconciler.desired.connector_facts import ConnectorFacts, EntityFacts, FieldFacts


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", nargs="?", metavar="TYPE", help="everything about this one (default: a list of all)")
    add_output(parser, _WRITERS)
    examples(parser, "reconciler connectors slack", "reconciler connectors servicenow --output markdown")


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.desired.connector_facts import connector_facts
    from reconciler.sdk.registry import known_types, load

    known = known_types()
    if args.type is not None and args.type not in known:
        raise CommandError(f"there is no connector {args.type}{meant(args.type, known)}")
    facts = [connector_facts(load(name)) for name in ([args.type] if args.type else known)]
    print(_WRITERS[args.output](facts, args.type is not None))
    return 0


def as_json(facts: "Sequence[ConnectorFacts]", is_one: bool) -> str:
    shown = [dataclasses.asdict(one) for one in facts]
    return json.dumps(shown[0] if is_one else {"connectors": shown}, indent=2, ensure_ascii=False)


def as_text(facts: "Sequence[ConnectorFacts]", is_one: bool) -> str:
    """A table of all, or all about one."""
    if is_one:
        return "\n".join(_text(facts[0]))
    rows = [
        (
            f.type,
            f.title,
            ", ".join(a.types[0] for a in f.auth if a.types) or "-",
            _names(f.entities),
            _names(f.channels),
        )
        for f in facts
    ]
    return aligned(("TYPE", "TITLE", "AUTH", "ENTITIES", "CHANNELS"), rows)


def _names(found: Sequence[Any]) -> str:
    return ", ".join(one.name for one in found) or "-"


def _text(f: "ConnectorFacts") -> Iterator[str]:
    yield f"{f.title} ({f.type}, version {f.version})" + (f"  {f.docs_url}" if f.docs_url else "")
    yield "\ncan:"
    yield from (f"  {one}" for one in f.capabilities)
    for auth in f.auth:
        yield f"\nauth {' = '.join(auth.types) or '(no type)'}" + (f": {auth.description}" if auth.description else "")
        yield from _indented(_field_rows(auth.fields))
    yield "\nconfig:"
    yield from _indented(_field_rows(f.config))
    if f.entities:
        yield "\nentities:"
        rows = [(e.name, _reading(e), f"deletions {e.deletes}", _rights(e.rights)) for e in f.entities]
        yield from _indented(rows)
    if f.events:
        yield "\nevents:"
        yield f"  {', '.join(f.events)}"
    for channel in f.channels:
        yield f"\nchannel {channel.name}: {channel.repeat}"
        if channel.text_field:
            yield f"  template fills {channel.text_field}"
        if channel.rights:
            yield f"  {_rights(channel.rights)}"
        yield from _indented(_field_rows(channel.fields))
    if f.limits:
        yield "\nlimits of the remote that are kept:"
        yield from (f"  {one}" for one in f.limits)


def _reading(e: "EntityFacts") -> str:
    how = f"cursor {e.cursor}" if e.is_incremental else "read as a whole"
    return how + (", delta" if e.has_delta else "") + ("" if e.by_default else ", only when named")


def _rights(rights: Sequence[str]) -> str:
    return f"needs {', '.join(rights)}" if rights else ""


def _field_rows(fields: "Sequence[FieldFacts]") -> list[tuple[str, ...]]:
    return [(f.name, f.type, _default(f), f.description) for f in fields]


def _default(f: "FieldFacts") -> str:
    if f.is_required:
        return "required"
    return "" if f.default in (None, "", [], {}) else f"default {_value(f.default)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _indented(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield from (f"  {line}".rstrip() for line in aligned(rows[0], rows[1:]).split("\n"))


def as_markdown(facts: "Sequence[ConnectorFacts]", is_one: bool) -> str:  # noqa: ARG001 - one page or many
    """A page of documentation for each."""
    return "\n\n".join("\n".join(_page(f)) for f in facts)


def _page(f: "ConnectorFacts") -> Iterator[str]:
    yield f"# {f.title} (`{f.type}`)\n"
    if f.docs_url:
        yield f"Vendor's documentation: <{f.docs_url}>\n"
    yield from (f"- {one}" for one in f.capabilities)
    for auth in f.auth:
        yield f"\n## Auth {' or '.join(f'`{t}`' for t in auth.types) or 'without a type'}\n"
        if auth.description:
            yield f"{auth.description}\n"
        yield from _field_table(auth.fields)
    yield "\n## Config\n"
    yield from _field_table(f.config)
    if f.entities:
        yield "\n## Entities\n"
        rows = [(f"`{e.name}`", _reading(e), e.deletes, ", ".join(f"`{r}`" for r in e.rights)) for e in f.entities]
        yield from _table(("Entity", "Reading", "Deletions", "Rights"), rows)
    for channel in f.channels:
        yield f"\n## Channel `{channel.name}`\n"
        fills = f" `template` fills `{channel.text_field}`." if channel.text_field else ""
        needs = f" Needs {', '.join(f'`{r}`' for r in channel.rights)}." if channel.rights else ""
        yield f"When a message may have arrived: {channel.repeat}.{fills}{needs}\n"
        yield from _field_table(channel.fields)
    if f.limits:
        yield "\n## Limits of the remote that are kept\n"
        yield from (f"- {one}" for one in f.limits)


def _field_table(fields: "Sequence[FieldFacts]") -> Iterator[str]:
    if not fields:
        yield "No fields."
        return
    rows = [(f"`{f.name}`", f.type, _default(f), f.description) for f in fields]
    yield from _table(("Field", "Type", "Default", "Meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_WRITERS: "Mapping[str, Callable[[Sequence[ConnectorFacts], bool], str]]" = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
}
