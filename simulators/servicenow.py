"""A ServiceNow instance: Table, Aggregate and CMDB Instance API, OAuth, and the quirks that lose records.

In: requests of the connector. Out: what an instance answers, including: dates read in the session's time zone, conditions on
unknown fields ignored, `sysparm_limit` applied before access rules (short and empty pages), values as strings, empty
references as "", journal fields that read back "", a token endpoint that takes forms only, hands out the current token and
renews by refresh tokens, `javascript:gs.getUserID()` in conditions, a hibernating instance that answers HTML. Used by the
connector's tests and the demo. Not done: display values, views, attachments, domain separation, other scripts.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route
from simulators import description, key_id, signed_by

Row = dict[str, str]
LIST_PARAMS = (
    "sysparm_query", "sysparm_limit", "sysparm_offset", "sysparm_no_count", "sysparm_suppress_pagination_header",
    "sysparm_display_value", "sysparm_exclude_reference_link", "sysparm_fields", "sysparm_query_category", "sysparm_view",
)  # fmt: skip
WRITE_PARAMS = (
    "sysparm_display_value",
    "sysparm_exclude_reference_link",
    "sysparm_fields",
    "sysparm_input_display_value",
)
TABLES = (
    "incident", "change_request", "problem", "sc_request", "sc_req_item", "cmdb_ci", "cmdb_ci_server", "cmdb_rel_ci",
    "sys_user", "sys_user_group", "sys_user_grmember", "sys_journal_field", "sys_audit",
)  # fmt: skip
PREFIXES = {"incident": "INC", "change_request": "CHG", "problem": "PRB", "sc_request": "REQ", "sc_req_item": "RITM"}
REFERENCES = {
    "assigned_to": "sys_user",
    "assignment_group": "sys_user_group",
    "cmdb_ci": "cmdb_ci",
    "caller_id": "sys_user",
}
JOURNALS = ("comments", "work_notes")
TASK_COLUMNS = {"number", "short_description", "description", "state", "priority", "urgency", "impact", "category",
                "correlation_id", "correlation_display", "active", *REFERENCES, *JOURNALS}  # fmt: skip
COLUMNS: Mapping[str, set[str]] = {
    **dict.fromkeys(PREFIXES, TASK_COLUMNS),
    "sys_journal_field": {"element", "element_id", "name", "value"},
    "sys_audit": {"fieldname", "oldvalue", "newvalue", "tablename", "documentkey"},
    "sys_user": {"user_name", "name", "email"},
}
_CONDITION = re.compile(
    r"([a-z0-9_.]+)(ISNOTEMPTY|ISEMPTY|STARTSWITH|ENDSWITH|NOTLIKE|LIKE|IN|BETWEEN|>=|<=|!=|=|>|<)(.*)", re.DOTALL
)
_JSON = {"Accept": "application/json*"}
_LIFE, _REFRESH_LIFE = timedelta(seconds=1800), timedelta(days=100)
_CURRENT_USER = "javascript:gs.getUserID()"


def stamp(at: datetime) -> str:
    """A time as the instance writes it."""
    return at.strftime("%Y-%m-%d %H:%M:%S")


def failure(status: int, message: str, detail: str | None = None) -> Reply:
    return Reply(status=status, json={"error": {"message": message, "detail": detail}, "status": "failure"})


@dataclass(frozen=True, slots=True)
class Issued:
    """Whose a token is, and until when."""

    client: str
    user: str
    until: datetime


def _refused(error: str) -> Reply:
    return Reply(status=401, json={"error": error, "error_description": "access_denied"})


class ServiceNow(Simulator):
    """`tables` is the state. Who signs in stands in `users`, `api_keys` (key -> user) and `application_users` (client -> user);
    without a row in `sys_user` it is as if access rules hid that row. Switches: `hidden` rows, `denied` tables,
    `session_offset`, `per_hour`, `max_limit` of a page, `slowest` page that is not cancelled (`cancels_midway`: after the
    status was sent), `is_hibernating`.
    """

    descriptions = description("servicenow/openapi.json")

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.tables: dict[str, dict[str, Row]] = {name: {} for name in TABLES}
        self.users: dict[str, str] = {}
        self.api_keys: dict[str, str] = {}
        self.application_users: dict[str, str] = {}
        self.clients: dict[str, str] = {}
        self.client_keys: dict[str, dict[str, RSAPublicKey]] = {}
        self.access: dict[str, Issued] = {}
        self.refresh: dict[str, Issued] = {}
        self.hidden: set[str] = set()
        self.denied: set[str] = set()
        self.session_offset = timedelta(0)
        self.returns_no_rows = False
        self.per_hour: int | None = None
        self.max_limit = 10_000
        self.slowest: int | None = None
        self.cancels_midway = False
        self.is_hibernating = False
        self._counter = 0

    # State, for tests and the demo.

    def put(self, table: str, values: Mapping[str, str], at: datetime | None = None) -> Row:
        """Create a row, or update the one with this sys_id, as somebody did at `at` (None: now)."""
        rows, when = self.tables[table], stamp(at or self.now())
        sys_id = values.get("sys_id") or self._new_id()
        row = rows.get(sys_id)
        if row is None:
            self._counter += 1
            prefix = PREFIXES.get(table)
            row = {"sys_id": sys_id, "sys_created_on": when, "sys_mod_count": "-1"}
            row |= {"number": f"{prefix}{self._counter:07}"} if prefix else {}
            row |= {name: "" for name in COLUMNS.get(table, ()) if name not in row}
        for name in JOURNALS:
            if values.get(name):
                self._note(table, sys_id, name, values[name], when)
        kept = {k: v for k, v in values.items() if k not in JOURNALS}
        moved = {} if table in ("sys_journal_field", "sys_audit") else {"sys_updated_on": when}
        rows[sys_id] = {**row, **moved, **kept, "sys_id": sys_id, "sys_mod_count": str(int(row["sys_mod_count"]) + 1)}
        return rows[sys_id]

    def delete(self, table: str, sys_id: str) -> None:
        """Delete a row for good; the audit remembers."""
        del self.tables[table][sys_id]
        self.put("sys_audit", {"fieldname": "DELETED", "oldvalue": "DELETED", "newvalue": "DELETED",
                               "tablename": table, "documentkey": sys_id})  # fmt: skip

    def _new_id(self) -> str:
        self._counter += 1
        return hashlib.md5(f"row {self._counter}".encode(), usedforsecurity=False).hexdigest()

    def _note(self, table: str, sys_id: str, element: str, text: str, when: str) -> None:
        note = {"element": element, "element_id": sys_id, "name": table, "value": text, "sys_created_on": when}
        self.put("sys_journal_field", note)

    # The gate.

    def error(self, status: int) -> Reply:
        said = {
            401: ("User Not Authenticated", "Required to provide Auth information"),
            403: ("Operation Failed", "ACL Exception"),
            404: ("No Record found", "Record doesn't exist or ACL restricts the record retrieval"),
            429: ("Rate limit exceeded", "Rate limit of 100 requests per hour for Table API exceeded"),
            500: ("Internal error", "Something went wrong"),
        }
        return failure(status, *said.get(status, (f"Error {status}", None)))

    def lets_pass(self, operation: str, complaint: str) -> bool:
        # Rows written by imports without system fields have no change time.
        return "sys_updated_on: '' does not match" in complaint

    def admit(self, call: Call) -> Reply | None:
        if self.is_hibernating:
            page = b"<html><body>Your instance is hibernating</body></html>"
            return Reply(body=page, content_type="text/html;charset=UTF-8")
        if self._user(call) is None:
            return self.error(401)
        if self.per_hour is not None:
            since = self.now() - timedelta(hours=1)
            self._admitted = [t for t in getattr(self, "_admitted", []) if t > since] + [self.now()]
            if len(self._admitted) > self.per_hour:
                return self._over_the_limit()
        return None

    def _over_the_limit(self) -> Reply:
        reset = int((self._admitted[0] + timedelta(hours=1)).timestamp())
        headers = {"Retry-After": str(max(1, reset - int(self.now().timestamp()))), "X-RateLimit-Reset": str(reset),
                   "X-RateLimit-Limit": str(self.per_hour), "X-RateLimit-Rule": "5" * 32}  # fmt: skip
        return Reply(status=429, json=self.error(429).json, headers=headers)

    def _user(self, call: Call) -> str | None:
        """Who is signed in; None: nobody."""
        kind, _, value = call.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            name, _, password = base64.b64decode(value).decode().partition(":")
            return name if name in self.users and self.users[name] == password else None
        if kind == "Bearer":
            issued = self.access.get(value)
            return issued.user if issued and issued.until > self.now() else None
        return self.api_keys.get(call.headers.get("x-sn-apikey", ""))

    def _user_id(self, call: Call) -> str:
        """What a script in a condition is told; of a user whose row nobody may see, an id that finds nothing."""
        rows, user = self.tables["sys_user"].values(), self._user(call)
        return next((r["sys_id"] for r in rows if user and r["user_name"] == user), "f" * 32)

    @route("POST", "/oauth_token.do", body="form", is_open=True)
    def token(self, call: Call) -> Reply:
        form = call.form
        client, grant = form.get("client_id", ""), form.get("grant_type")
        if client not in self.clients or self.clients[client] != form.get("client_secret"):
            return _refused("server_error")
        if grant == "refresh_token":
            return self._renewed(form)
        user = self._granted_to(form)
        if user is None:
            return _refused("server_error")
        access = self._current(self.access, client, user) or self._issue(self.access, form, user, "access", _LIFE)
        if grant == "client_credentials":
            return self._granted(access)
        refresh = self._current(self.refresh, client, user)
        return self._granted(access, refresh or self._issue(self.refresh, form, user, "refresh", _REFRESH_LIFE))

    def _renewed(self, form: Mapping[str, str]) -> Reply:
        """A new access token, and the refresh token as it is."""
        refresh = form.get("refresh_token", "")
        kept = self.refresh.get(refresh)
        if kept is None or kept.client != form["client_id"] or kept.until <= self.now():
            return _refused("invalid_grant")
        return self._granted(self._issue(self.access, form, kept.user, "access", _LIFE), refresh)

    def _current(self, kept: Mapping[str, Issued], client: str, user: str) -> str | None:
        """The newest token that is alive."""
        alive = [t for t, i in kept.items() if (i.client, i.user) == (client, user) and i.until > self.now()]
        return alive[-1] if alive else None

    def _issue(self, kept: dict[str, Issued], form: Mapping[str, str], user: str, kind: str, life: timedelta) -> str:
        token = f"{form['client_secret']}-{kind}-{self._new_id()}"
        kept[token] = Issued(form["client_id"], user, self.now() + life)
        return token

    def _granted(self, access: str, refresh: str | None = None) -> Reply:
        left = int((self.access[access].until - self.now()).total_seconds())
        answer = {"access_token": access, "scope": "useraccount", "token_type": "Bearer", "expires_in": left}
        return Reply(json=answer | ({"refresh_token": refresh} if refresh else {}))

    def _granted_to(self, form: Mapping[str, str]) -> str | None:
        """The user whom a grant is for; None: refused."""
        match form.get("grant_type"):
            case "client_credentials":
                return self.application_users.get(form["client_id"], "")
            case "password":
                name = form.get("username", "")
                return name if name in self.users and self.users[name] == form.get("password") else None
            case "urn:ietf:params:oauth:grant-type:jwt-bearer" if "assertion" in form:
                key = self.client_keys.get(form["client_id"], {}).get(key_id(form["assertion"]))
                claims = signed_by(key, form["assertion"]) or {}
                is_ours = (claims.get("iss"), claims.get("aud")) == (form["client_id"], form["client_id"])
                is_known = is_ours and claims["sub"] in self.users and claims["exp"] > self.now().timestamp()
                return str(claims["sub"]) if is_known else None
        return None

    @route("GET", "/oauth_revoke_token.do", required=("token",), is_open=True)
    def revoke(self, call: Call) -> Reply:
        for kept in (self.access, self.refresh):
            kept.pop(call.query["token"], None)
        return Reply()

    # Table API.

    def _table(self, call: Call) -> Reply | dict[str, Row]:
        name = call.path["table"]
        if name not in self.tables:
            return failure(400, f"Invalid table {name}")
        return self.error(403) if name in self.denied else self.tables[name]

    @route("GET", "/api/now/table/{table}", query=LIST_PARAMS, headers=_JSON)
    def listed(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        found = self._asked_for(call)
        offset = int(call.query.get("sysparm_offset", 0))
        limit = call.size(min(int(call.query.get("sysparm_limit", 10_000)), self.max_limit))
        if self.slowest is not None and limit > self.slowest:
            cancelled = failure(500, "Transaction cancelled: maximum execution time exceeded")
            return Reply(json={"result": [], **cancelled.json}) if self.cancels_midway else cancelled
        window = [row for row in found[offset : offset + limit] if row["sys_id"] not in self.hidden]
        headers = {}
        if call.query.get("sysparm_no_count") != "true":
            headers["X-Total-Count"] = str(len(found))
            if offset + limit < len(found):
                following = f"{self.url}{call.url_path}?sysparm_limit={limit}&sysparm_offset={offset + limit}"
                headers["Link"] = f'<{self.url}{call.url_path}?sysparm_offset=0>;rel="first",<{following}>;rel="next"'
        return Reply(json={"result": [self._shown(row, call) for row in window]}, headers=headers)

    def _shown(self, row: Row, call: Call) -> dict[str, Any]:
        wanted = [f for f in call.query.get("sysparm_fields", "").split(",") if f]
        plain = call.query.get("sysparm_exclude_reference_link") == "true"
        shown: dict[str, Any] = {}
        for name, value in row.items():
            if wanted and name not in wanted:
                continue
            table = REFERENCES.get(name)
            link = f"{self.url}/api/now/table/{table}/{value}"
            shown[name] = {"link": link, "value": value} if table and value and not plain else value
        return shown

    def _asked_for(self, call: Call) -> list[Row]:
        query = call.query.get("sysparm_query", "").replace(_CURRENT_USER, self._user_id(call))
        return self.select(call.path["table"], query)

    def select(self, table: str, query: str) -> list[Row]:
        """Rows that an encoded query finds, in its order."""
        groups: list[list[list[str]]] = [[]]
        orders: list[tuple[str, bool]] = []
        for part in query.split("^"):
            if part.startswith("ORDERBY"):
                name = part.removeprefix("ORDERBY").removeprefix("DESC")
                orders.append((name, part.startswith("ORDERBYDESC")))
            elif part.startswith("NQ"):
                groups.append([[part[2:]]])
            elif part.startswith("OR") and groups[-1]:
                groups[-1][-1].append(part[2:])
            elif part:
                groups[-1].append([part])
        found = [
            row for row in self.tables[table].values()
            if any(all(any(self._holds(table, row, c) for c in either) for either in group) for group in groups)
        ]  # fmt: skip
        for name, descends in reversed(orders or [("sys_id", False)]):
            found.sort(key=lambda row: row.get(name, ""), reverse=descends)
        return found

    def _holds(self, table: str, row: Row, condition: str) -> bool:
        match = _CONDITION.fullmatch(condition)
        if match is None or not self._has_column(table, match[1]):
            return not self.returns_no_rows
        name, operator, value = match.groups()
        if name.endswith("_on") and re.match(r"\d{4}-", value):
            value = stamp(datetime.strptime(value, "%Y-%m-%d %H:%M:%S") - self.session_offset)  # noqa: DTZ007
        have = row.get(name, "")
        return _OPERATORS[operator](have, value)

    def _has_column(self, table: str, name: str) -> bool:
        known = {"sys_id", "sys_created_on", "sys_mod_count"} | COLUMNS.get(table, set())
        if table not in ("sys_journal_field", "sys_audit"):
            known.add("sys_updated_on")
        return name in known or any(name in row for row in self.tables[table].values())

    @route("POST", "/api/now/table/{table}", query=WRITE_PARAMS, headers=_JSON, body="json")
    def created(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        given = {k: v for k, v in call.json.items() if k != "sys_id"}
        row = self.put(call.path["table"], given)
        return self._written(call, row, 201)

    @route("PATCH", "/api/now/table/{table}/{sys_id}", query=WRITE_PARAMS, headers=_JSON, body="json")
    @route("PUT", "/api/now/table/{table}/{sys_id}", query=WRITE_PARAMS, headers=_JSON, body="json")
    def changed(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        sys_id = call.path["sys_id"]
        if sys_id not in rows or sys_id in self.hidden:
            return self.error(404)
        return self._written(call, self.put(call.path["table"], {**call.json, "sys_id": sys_id}), 200)

    def _written(self, call: Call, row: Row, status: int) -> Reply:
        headers = (
            {"Location": f"{self.url}/api/now/table/{call.path['table']}/{row['sys_id']}"} if status == 201 else {}
        )
        if call.headers.get("x-no-response-body") == "true":
            return Reply(status=status, headers=headers)
        return Reply(status=status, json={"result": self._shown(row, call)}, headers=headers)

    @route("DELETE", "/api/now/table/{table}/{sys_id}", headers=_JSON)
    def deleted(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        if call.path["sys_id"] not in rows:
            return self.error(404)
        self.delete(call.path["table"], call.path["sys_id"])
        return Reply(status=204)

    @route("GET", "/api/now/stats/{table}", query=("sysparm_query", "sysparm_count"), headers=_JSON)
    def counted(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        found = self._asked_for(call)
        return Reply(json={"result": {"stats": {"count": str(len(found))}}})

    # CMDB Instance API.

    @route("POST", "/api/now/cmdb/instance/{table}", headers=_JSON, body="json",
           fields=("attributes", "source", "inbound_relations", "outbound_relations"))  # fmt: skip
    def identified(self, call: Call) -> Reply:
        rows = self._table(call)
        if isinstance(rows, Reply):
            return rows
        given = call.json["attributes"]
        if not given.get("name"):
            return failure(400, "Exception while executing request: null")
        same = next((i for i, row in rows.items() if row.get("name") == given["name"]), None)
        row = self.put(call.path["table"], {**given, **({"sys_id": same} if same else {})})
        relations = call.json.get("outbound_relations", [])
        for relation in relations:
            self.put("cmdb_rel_ci", {"parent": row["sys_id"], "child": relation["target"], "type": relation["type"]})
        return Reply(status=200 if same else 201, json={"result": {"attributes": row, "outbound_relations": [],
                                                                   "inbound_relations": []}})  # fmt: skip


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda have, value: have == value,
    "!=": lambda have, value: have != value,
    ">": lambda have, value: have != "" and have > value,
    ">=": lambda have, value: have != "" and have >= value,
    "<": lambda have, value: have != "" and have < value,
    "<=": lambda have, value: have != "" and have <= value,
    "LIKE": lambda have, value: value in have,
    "NOTLIKE": lambda have, value: value not in have,
    "STARTSWITH": lambda have, value: have.startswith(value),
    "ENDSWITH": lambda have, value: have.endswith(value),
    "IN": lambda have, value: have in value.split(","),
    "BETWEEN": lambda have, value: value.split("@")[0] <= have <= value.split("@")[-1],
    "ISEMPTY": lambda have, value: have == "",
    "ISNOTEMPTY": lambda have, value: have != "",
}
