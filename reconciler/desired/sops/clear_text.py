"""SOPS files back to clear files, for the `secrets` command.

In: the bytes of a SOPS file, its format, a keyring. Out: the bytes of the clear file. YAML keeps its layout and gets its
encrypted comments back; a comment's path cannot be read off its place with certainty, so each path of the file is tried.
Where the sops program decrypts, YAML has its layout, and comments of env files stay encrypted.
Not done: ini (values are found through `document.decrypt`).
"""

from collections.abc import Iterable, Iterator

from reconciler.desired.sops import emit
from reconciler.desired.sops.cipher import ValueCipher
from reconciler.desired.sops.document import Opened, open_binary, open_file
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import ENV_PREFIX, Format, decoded, env_lines
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.program import run_program
from reconciler.desired.sops.tree import leaves, revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.desired.sops.yaml_text import Edit, Layout, comments, edited, layout
from reconciler.model.finding import Code


def clear_text(content: bytes, fmt: Format, keyring: Keyring) -> bytes:
    """The clear file. Raises `SopsError` unless the whole file is authentic."""
    if fmt == "binary":
        return open_binary(content, keyring)
    opened = open_file(content, fmt, keyring)
    text = decoded(content)
    if fmt == "yaml":
        return _yaml(text, opened, opened.data_key) if opened.data_key else _yaml_by_program(content, opened, keyring)
    if fmt == "json":
        return emit.json_text(revealed(opened.trees[0]), text)
    if fmt == "env":
        return _env(text, opened)
    raise SopsError(Code.SOPS_MALFORMED, "ini files are read, not written", "use --extract, or run sops itself")


def _yaml(text: str, opened: Opened, data_key: bytes) -> bytes:
    expected = [revealed(tree) for tree in opened.trees]
    found, cipher = layout(text), ValueCipher(data_key)
    for literal in (True, False):
        clear = edited(text, [*_edits(opened, found, literal=literal), *_comment_edits(text, found, cipher)])
        if repr(read_documents(clear)) == repr(expected):
            return clear.encode()
    raise _other_layout()


def _yaml_by_program(content: bytes, opened: Opened, keyring: Keyring) -> bytes:
    """In the program's own layout, with comments; compared, because it writes some texts wrongly (a tab before a line)."""
    clear = run_program(content, opened.metadata, keyring, "yaml")
    if read_documents(clear.decode()) != [revealed(tree) for tree in opened.trees]:
        raise _other_layout()
    return clear


def _other_layout() -> SopsError:
    message = "the file cannot be decrypted without changing its layout"
    return SopsError(Code.SOPS_MALFORMED, message, "write it in plain key: value lines, or run sops itself")


def _edits(opened: Opened, found: Layout, *, literal: bool) -> list[Edit]:
    rules = opened.metadata.rules
    before = [leaf.value for tree in opened.source.documents for leaf in leaves(tree, rules)]
    after = [leaf.value for tree in opened.trees for leaf in leaves(tree, rules)]
    edits = [Edit(start, end, "") for start, end in found.blocks]
    for spot, sealed, value in zip(found.values, before, after, strict=True):
        if looks_encrypted(sealed):
            clear = emit.yaml_scalar(revealed(value), spot.indent, flow=spot.flow, literal=literal)
            edits.append(Edit(spot.start, spot.end, clear))
    return edits


def _comment_edits(text: str, found: Layout, cipher: ValueCipher) -> Iterator[Edit]:
    paths = {":".join(spot.parents) + ":" for spot in (*found.spots, *found.notes)}
    for one in comments(text, found.spots):
        yield Edit(one.start + 1, one.start + 1 + len(one.text), _comment(one.text, cipher, paths))
    for note in found.notes:
        sealed = text[note.start : note.end].strip("'\"")
        yield Edit(text.rindex("-", 0, note.start), note.end, "#" + _comment(sealed, cipher, paths))


def _comment(text: str, cipher: ValueCipher, paths: Iterable[str]) -> str:
    if not looks_encrypted(text.strip()):
        return text
    for path in paths:
        try:
            kind, raw = cipher.open_raw(text.strip(), path)
        except SopsError:
            continue
        clear = raw.decode(errors="replace")
        return clear if kind == "comment" and len(clear.splitlines()) == 1 else text
    return text


def _env(text: str, opened: Opened) -> bytes:
    values = revealed(opened.trees[0])
    cipher = ValueCipher(opened.data_key) if opened.data_key else None
    lines = []
    for key, value in env_lines(text):
        if key == "#":
            lines.append(f"#{_comment(value, cipher, (':',)) if cipher else value}")
        elif not key.startswith(ENV_PREFIX):
            lines.append(f"{key}={values[key]}".replace("\n", "\\n"))
    return ("\n".join(lines) + "\n").encode()
