"""A document led to the tree somebody wants, its secrets encrypted: nothing secret leaves here in clear.

In: the text of a file, which document, the wanted tree (ciphertext where a value stays), and the keys and rules of the
repository. Out: the text of the file. Called by `edits`, in a worker thread. What is encrypted: what the connector's settings
call a secret, and what the SOPS rules of the file match.

A file without a `sops` block gets one from the nearest `.sops.yaml` of the same revision. In an encrypted file every
ciphertext whose value stays is kept byte for byte; new values are sealed with the file's data key (`resealing`), for whom the
file is encrypted already. A file whose values changed needs a new MAC and so the data key, unless its MAC covers encrypted
values only and none of those changed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reconciler.desired.connector_checks import Registry
from reconciler.desired.problem import dotted
from reconciler.desired.sops.encrypt import Sealing, encrypt
from reconciler.desired.sops.envelope import MANIFEST_RULES, check_manifests
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.metadata import parse_metadata
from reconciler.desired.sops.policy import CONFIG_NAME, Policy, policy_at
from reconciler.desired.sops.rules import DEFAULT_SUFFIX, Rules
from reconciler.desired.unresolved import MAY_HOLD_SECRETS, REFERENCES
from reconciler.desired.writing.operations import Path, same
from reconciler.desired.writing.resealing import Group
from reconciler.desired.writing.retouch import retouched, trees_of, without_document
from reconciler.desired.writing.standing import clear_secrets, secret_names
from reconciler.model.finding import Code

Tree = Mapping[str, Any]
_REFER = "or refer to the secret with from_env or from_file"
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Sealer:
    """`read` gives other files of the revision. `keyring` is asked when a data key is needed."""

    registry: Registry
    keyring: Callable[[], Keyring]
    read: Callable[[str], bytes | None]
    at: datetime

    def changed(self, text: str, file: str, index: int, wanted: Tree) -> str:
        """The text in which document `index` is `wanted`. Raises SopsError and LayoutError."""
        now = trees_of(text)[index]
        if same(now, wanted):
            return text
        if BLOCK in now:
            return self._in_encrypted(text, index, wanted)
        return self._in_clear(retouched(text, index, wanted), file, now, wanted)

    def created(self, text: str, file: str, wanted: Tree) -> str:
        """The same for the text of a new file."""
        return self._in_clear(text, file, {}, wanted)

    def removed(self, text: str, index: int) -> str:
        """The text without a document; where others bear the same `sops` block, with a new MAC over what is left."""
        trees = trees_of(text)
        shorter = without_document(text, index)
        group = Group.of(trees, index) if BLOCK in trees[index] else None
        if not shorter or group is None or len(group.places) == 1:
            return shorter
        opened = group.opened(text, self.keyring())
        return opened.signed(shorter, opened.without(index), self.at)

    # A file that is not encrypted yet.

    def _in_clear(self, text: str, file: str, now: Tree, wanted: Tree) -> str:
        new = [path for path, value in _leaves(wanted) if value not in (None, "") and _is_new(now, wanted, path)]
        if not any(map(_may_be_secret, new)):
            return text
        policy = policy_at(self.read, file)
        secrets = [path for path in clear_secrets(wanted, self.registry) if path in new]
        if not secrets and not _is_matched(policy, new):
            return text
        first = dotted(secrets[0]) if secrets else file
        if policy.other_sources:
            message = f"{first} is a secret, and the rule in {policy.origin} names keys other than age"
            raise SopsError(Code.SOPS_PROGRAM_MISSING, message, f"encrypt the file with sops in a commit, {_REFER}")
        if not policy.recipients:
            message = f"{first} is a secret, and no {CONFIG_NAME} of the repository says whom to encrypt {file} for"
            remedy = f"commit a {CONFIG_NAME} with a creation rule and age recipients, {_REFER}"
            raise SopsError(Code.SOPS_KEY_MISSING, message, remedy)
        rules = _rules(policy, wanted, secret_names(wanted, self.registry))
        check_manifests([dict(wanted)], rules)
        if bare := [path for path in secrets if not _encrypts(rules, path)]:
            raise _uncovered(bare[0], rules, policy.origin)
        return encrypt(text.encode(), "yaml", Sealing(policy.recipients, rules, self.at)).decode()

    # A file that is.

    def _in_encrypted(self, text: str, index: int, wanted: Tree) -> str:
        trees = trees_of(text)
        group = Group.of(trees, index)
        rules = parse_metadata(trees[index][BLOCK]).rules
        body = {key: value for key, value in wanted.items() if key != BLOCK}
        check_manifests([body], rules)
        to_seal = [path for path, value in _leaves(body) if _is_to_seal(rules, path, value)]
        for path in clear_secrets(body, self.registry):
            if path not in to_seal and _is_new(trees[index], wanted, path):
                raise _uncovered(path, rules, "the sops block of the file")
        if not to_seal and rules.mac_only_encrypted and _sealed(trees[index]) == _sealed(wanted):
            return retouched(text, index, wanted)
        opened = group.opened(text, self.keyring())
        return opened.signed(retouched(text, index, opened.sealed(index, wanted, to_seal)), group.places, self.at)


def _is_matched(policy: Policy, new: list[Path]) -> bool:
    """Whether a new value is one that an explicit rule of the repository wants encrypted."""
    rules = policy.rules
    if rules is None or _is_default(rules):
        return False
    return any(_encrypts(rules, path) for path in new if _may_be_secret(path))


def _rules(policy: Policy, wanted: Tree, names: frozenset[str]) -> Rules:
    """Those of the repository, else those of a manifest. Where these miss a secret of the connector, or take a reference for
    one, its own names are the rule: also of secrets that may come later, because the rule of a file stays."""
    if policy.rules is not None and not _is_default(policy.rules):
        return policy.rules
    usual = replace(MANIFEST_RULES, mac_only_encrypted=bool(policy.rules and policy.rules.mac_only_encrypted))
    referred = {
        str(part) for path, _ in _leaves(wanted) for part in path[:-1] if REFERENCES.intersection(map(str, path))
    }
    is_usual = all(_encrypts(usual, (name,)) for name in names) and not any(
        _encrypts(usual, (name,)) for name in referred
    )
    own = sorted(re.escape(name) for name in names - referred)
    return usual if is_usual else replace(usual, text=f"^({'|'.join(own)})$")


def _is_default(rules: Rules) -> bool:
    return rules.kind == "unencrypted_suffix" and rules.text == DEFAULT_SUFFIX


def _encrypts(rules: Rules, path: Path) -> bool:
    matches = rules.matcher()
    matched = any(matches(part) for part in path if isinstance(part, str))
    return rules.encrypts(matched=matched, value="x")


def _is_to_seal(rules: Rules, path: Path, value: Any) -> bool:
    return value is not None and value != "" and not looks_encrypted(value) and _encrypts(rules, path)


def _may_be_secret(path: Path) -> bool:
    """Neither the envelope, nor what says how to sign in, nor a reference."""
    inside = path[:1] == ("spec",) and path[1:2] and path[1] in MAY_HOLD_SECRETS
    return bool(inside) and path != ("spec", "auth", "type") and not REFERENCES.intersection(map(str, path))


def _sealed(tree: Tree) -> list[tuple[str, Any]]:
    """The encrypted values of a document by their place: the same in two trees where a MAC over them is the same."""
    found = ((path, value) for path, value in _leaves(tree) if path[:1] != (BLOCK,))
    return sorted((dotted(path), value) for path, value in found if looks_encrypted(value))


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, (*path, index))
    else:
        yield path, node


def _is_new(now: Tree, wanted: Tree, path: Path) -> bool:
    return not _same(_at(now, path), _at(wanted, path))


def _same(one: Any, other: Any) -> bool:
    return one is other if one is _NOTHING or other is _NOTHING else same(one, other)


def _at(node: Any, path: Path) -> Any:
    for part in path:
        is_there = part in node if isinstance(node, Mapping) else isinstance(node, list) and int(part) < len(node)
        if not is_there:
            return _NOTHING
        node = node[part]
    return node


def _uncovered(path: Path, rules: Rules, origin: str) -> SopsError:
    message = f"{dotted(path)} is a secret that {rules.kind} {rules.text} of {origin} leaves in clear"
    return SopsError(Code.SECRET_IN_CLEAR, message, f"add the name of the field to the rule, {_REFER}")
