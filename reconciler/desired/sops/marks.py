"""What ciphertext looks like, told from its text alone; light, since every manifest is looked at so."""

from typing import Any

ENCRYPTED_MARK = "ENC[AES256_GCM,"


def looks_encrypted(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(ENCRYPTED_MARK)


def is_sealed_comment(value: Any) -> bool:
    """SOPS writes an encrypted comment that stands in a list as one more item of that list; it is none."""
    return looks_encrypted(value) and value.endswith(",type:comment]")
