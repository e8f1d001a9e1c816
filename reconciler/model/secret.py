"""Secret values and the places they come from.

A `Secret` is readable only through `reveal()`; every other way out (repr, str, pickle, JSON, pydantic dump) shows
the mask. An `Unresolved` stands where a manifest holds ciphertext or a reference and no key has been used yet.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

MASK = "********"
SECRET_MARK = "x-secret"


class Secret:
    """A decrypted value. Compared in constant time; not picklable; hashes by identity of value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The clear text: call it only where the value leaves for the remote system."""
        return self._value

    def fingerprint(self, key: bytes) -> str:
        """Four hex digits of a keyed hash: tells two values apart in a plan without saying anything of them."""
        return self.digest(key)[:4]

    def digest(self, key: bytes) -> str:
        """The keyed hash that fingerprints are cut from: tells values apart for certain; not for showing."""
        return hmac.new(key, self._value.encode(), hashlib.sha256).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))
        accepted = core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.is_instance_schema(Unresolved), from_text],
            mode="left_to_right",
        )
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=accepted,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _: MASK),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {SECRET_MARK: True}


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Ciphertext or a reference as it stands in Git. `digest` changes when what is written in Git changes."""

    kind: Literal["encrypted", "from_sops", "from_env", "from_file"]
    digest: str
    file: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"Unresolved({self.kind})"
