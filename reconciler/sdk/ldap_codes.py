"""What the result codes of LDAP mean for whoever asked: errors that say what happens next, and how to mend it.

In: a code of RFC 4511, or below zero libldap's own, and the server's text. Out: an error to raise. Pure; called by
`reconciler.sdk.ldap`.
"""

import re
from collections.abc import Mapping

from reconciler.model.condition import Reason
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RejectedError, TransientError, UnauthorizedError

UNREACHABLE, TIMED_OUT = -1, -5
INVALID_DN = 34
OUT_OF_REACH = frozenset({32, INVALID_DN, 50})  # of one entry: not there, none at all, not for us
_AD_SIGN_IN = {
    "525": "the account does not exist",
    "52e": "wrong password",
    "530": "the account may not sign in at this hour",
    "531": "the account may not sign in from this machine",
    "532": "the password has expired",
    "533": "the account is disabled",
    "701": "the account has expired",
    "773": "the password must be changed first",
    "775": "the account is locked",
}
_TRUST = "TLS failed: the certificate must come from a trusted authority (ca_file) and name this very host"
_SIZE = "the size limit cut the search; let the account page through all (OpenLDAP: limits ... size.prtotal=unlimited)"
_CODES: Mapping[int, tuple[type[ConnectorError], Reason | None, str]] = {
    -11: (RejectedError, Reason.TLS_FAILED, _TRUST),
    -7: (RejectedError, None, "the filter is malformed"),
    -6: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    -5: (TransientError, Reason.TIMED_OUT, "no answer in time"),
    -1: (TransientError, None, "cannot be reached, or the connection was lost"),
    2: (RejectedError, Reason.PROTOCOL_ERROR, "the server does not support what was asked"),
    3: (TransientError, Reason.TIMED_OUT, "the server's time limit cut the search; index the change time there"),
    4: (RejectedError, None, _SIZE),
    7: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    8: (RejectedError, None, "the server demands TLS: use ldaps:// or start_tls"),
    11: (RejectedError, None, "an administrative limit cut the search; the account needs higher limits"),
    32: (RejectedError, None, "the base does not exist; check base_dn"),
    34: (RejectedError, None, "a DN is malformed; check base_dn"),
    48: (UnauthorizedError, None, "the server does not take this kind of sign-in"),
    49: (UnauthorizedError, None, "wrong bind_dn or password"),
    50: (ForbiddenError, None, "the account may not read this"),
    51: (TransientError, None, "the server is busy"),
    52: (TransientError, None, "the server is unavailable"),
    53: (RejectedError, None, "the server is unwilling to do this"),
    80: (TransientError, None, "the server met an internal error"),
}


def error_of(code: int, said: str, host: str, *, binding: bool = False) -> ConnectorError:
    """What a result code means: RFC 4511, below zero libldap's own. `said` is the server's text, never a password.

    Active Directory says in its text why it refused: `AcceptSecurityContext error, data 52e`.
    """
    kind, reason, meaning = _CODES.get(code, (RejectedError, None, "the server refused"))
    if binding and code == INVALID_DN:
        kind, meaning = UnauthorizedError, "bind_dn is malformed"
    told = re.search(r"\bdata ([0-9a-f]{3})\b", said) if code == 49 else None
    if told:
        meaning = _AD_SIGN_IN.get(told[1], meaning)
    return kind(f"{host}: {meaning} ({said.rstrip('. ')})", reason=reason, detail={"result_code": code})
