"""`.sops.yaml`: who a new file is encrypted to, and which of its values.

In: the path of a file. Out: the `Policy` of the first creation rule whose `path_regex` matches its path, taken from the
folder of the nearest `.sops.yaml` upwards. Age recipients may stand as a comma list, as a list, or in one key group.
Not done: destination rules and stores; a rule with other key sources is kept by name, and who encrypts refuses it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import decoded
from reconciler.desired.sops.rules import COMMENT_KINDS, KINDS, Rules, compile_pattern
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.finding import Code

CONFIG_NAME = ".sops.yaml"
_OTHER_SOURCES = (
    *("pgp", "kms", "gcp_kms", "hckms", "azure_keyvault", "azure_kv"),
    *("hc_vault", "hc_vault_transit_uri", "plugins"),
)


@dataclass(frozen=True, slots=True)
class Policy:
    """`rules` is None where nothing names one. `other_sources` are keys that only the sops program can encrypt to."""

    recipients: tuple[str, ...] = ()
    rules: Rules | None = None
    other_sources: tuple[str, ...] = ()
    origin: str = ""


def find_config(file: Path) -> Path | None:
    """The nearest `.sops.yaml` in the file's folder or above it."""
    folders = file.resolve().parents
    return next((folder / CONFIG_NAME for folder in folders if (folder / CONFIG_NAME).is_file()), None)


def load_policy(file: Path) -> Policy:
    """The policy for a file; empty where no configuration or no rule speaks of it."""
    config = find_config(file)
    if config is None:
        return Policy()
    try:
        return _policy(config.read_bytes(), file.resolve().relative_to(config.parent).as_posix(), str(config))
    except SopsError as cause:
        raise SopsError(cause.code, f"{config}: {cause.message}", cause.remedy) from None


def policy_at(read: Callable[[str], bytes | None], file: str) -> Policy:
    """The same for a file of a revision: `read` gives the bytes of another file of it, None where there is none."""
    for folder in PurePosixPath(file).parents:
        config = (folder / CONFIG_NAME).as_posix()
        content = read(config)
        if content is None:
            continue
        try:
            return _policy(content, PurePosixPath(file).relative_to(folder).as_posix(), config)
        except SopsError as cause:
            raise SopsError(cause.code, f"{config}: {cause.message}", cause.remedy) from None
    return Policy()


def split_recipients(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _policy(content: bytes, relative: str, origin: str) -> Policy:
    documents = read_documents(decoded(content))
    rules = documents[0].get("creation_rules") if documents and isinstance(documents[0], dict) else None
    for place, rule in enumerate(rules or ()):
        if not isinstance(rule, Mapping):
            raise _malformed(f"creation_rules[{place}] is not a mapping")
        pattern = rule.get("path_regex") or ""
        if not isinstance(pattern, str):
            raise _malformed(f"creation_rules[{place}].path_regex is not text")
        if not pattern or compile_pattern(pattern).search(relative):
            return _from_rule(rule, f"creation_rules[{place}]", origin)
    return Policy(origin=origin)


def _from_rule(rule: Mapping[str, Any], where: str, origin: str) -> Policy:
    groups = rule.get("key_groups") or [rule]
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise _malformed(f"{where}.key_groups is not a list of mappings")
    if len(groups) > 1:
        message = f"{where} has {len(groups)} key groups: shares need the sops program"
        raise SopsError(Code.SOPS_PROGRAM_MISSING, message, "use one group, or run sops itself")
    others = tuple(name for name in _OTHER_SOURCES if groups[0].get(name))
    recipients = tuple(dict.fromkeys(_recipients(groups[0], where)))
    return Policy(recipients, _rules(rule, where), others, origin)


def _recipients(group: Mapping[str, Any], where: str) -> Iterator[str]:
    for merged in group.get("merge") or ():
        yield from _recipients(merged, where)
    given = group.get("age") or []
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise _malformed(f"{where}.age is neither text nor a list of text")
    for entry in entries:
        yield from split_recipients(entry)


def _rules(rule: Mapping[str, Any], where: str) -> Rules | None:
    given = [(kind, rule[kind]) for kind in KINDS if rule.get(kind)]
    comment = next((kind for kind in COMMENT_KINDS if rule.get(kind)), None)
    if comment:
        raise _malformed(f"{where}.{comment} cannot be used for writing", "use encrypted_regex, or run sops itself")
    if len(given) > 1 or any(not isinstance(text, str) for _, text in given):
        raise _malformed(f"{where} needs at most one of {', '.join(KINDS)}, as text")
    mac_only = rule.get("mac_only_encrypted") is True
    if given:
        return Rules(given[0][0], given[0][1], mac_only)
    return Rules(mac_only_encrypted=True) if mac_only else None


def _malformed(message: str, remedy: str = "see https://getsops.io/docs/#using-sopsyaml-conf") -> SopsError:
    return SopsError(Code.SOPS_MALFORMED, message, remedy)
