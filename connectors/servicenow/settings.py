"""What a manifest may say about a ServiceNow: credentials, settings, entities, and the fields of its channels.

Used by the connector and by the generated JSON Schemas. Nothing here asks the instance.
"""

import re
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from reconciler.model.clock import from_rfc3339
from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, Deletes, Settings
from reconciler.sdk.paging import SinglePage
from reconciler.sdk.rest import RestEntity

SysId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="sys_id of the record.")]
Table = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the table.")]
_ORDERING = re.compile(r"\^?(ORDERBY|NQ|GROUPBY|EQ$)|\^RL")


class BasicAuth(AuthSettings):
    """Name and password of a user."""

    aliases: ClassVar = ("basic_auth",)
    type: Literal["basic"] = "basic"
    username: str
    password: Secret


class OAuth2(AuthSettings):
    """Client credentials; with `username` and `password` the password grant."""

    aliases: ClassVar = ("oauth",)
    type: Literal["oauth2"] = "oauth2"
    client_id: str
    client_secret: Secret
    username: str | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "OAuth2":
        if (self.username is None) != (self.password is None):
            raise ValueError("give both username and password (password grant), or neither (client credentials)")
        return self


class JwtBearer(AuthSettings):
    """A signed assertion for a user; needs an OAuth JWT profile on the instance that knows our key as `key_id`."""

    type: Literal["jwt_bearer"] = "jwt_bearer"
    client_id: str
    client_secret: Secret
    private_key: Secret = Field(description="RSA key in PEM.")
    key_id: str
    username: str = Field(description="What the profile's user field holds: user name or e-mail.")


class ApiKey(AuthSettings):
    """A REST API key, sent as `x-sn-apikey`; needs a REST API access policy on the instance."""

    aliases: ClassVar = ("api_token",)
    type: Literal["api_key"] = "api_key"
    api_key: Secret


class Config(Settings):
    instance_url: str = Field(pattern=r"^https?://[^/?#\s]+/?$", description="e.g. https://company.service-now.com")
    cmdb_federation: bool = Field(False, description="Read CIs and their relations by default, too.")
    tables: tuple[Table, ...] = Field((), description="Further tables; each becomes an entity of the same name.")
    query: dict[str, str] = Field(
        default_factory=dict, description="Encoded query per entity, e.g. incidents: active=true^priority<=2"
    )

    @field_validator("query")
    @classmethod
    def _is_only_a_filter(cls, query: dict[str, str]) -> dict[str, str]:
        for entity, text in query.items():
            if _ORDERING.search(text):
                raise ValueError(
                    f"query of {entity}: ^NQ, ORDERBY, GROUPBY, RLQUERY and ^EQ are ours to set; give conditions only"
                )
        return query

    @model_validator(mode="after")
    def _known_entities(self) -> "Config":
        known = {e.name for e in entities_of(self)}
        if unknown := sorted(self.query.keys() - known):
            raise ValueError(
                f"query names no entity of ServiceNow: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        return self


def utc(value: Any) -> datetime:
    """`YYYY-MM-DD HH:MM:SS`, UTC while display values are off."""
    return from_rfc3339(f"{value}Z")


def table_entity(
    name: str, table: str, title: str = "", *, by_default: bool = False, cursor: str = "sys_updated_on"
) -> RestEntity:
    return RestEntity(
        name=name, title=title or table, path=f"/api/now/table/{table}", records="result", pager=SinglePage(), key="sys_id",
        cursor=cursor, at=utc, ordered=True, has_delta=True, by_default=by_default, page_size=1000,
        deletes=Deletes.KEYS, key_params={"sysparm_fields": f"sys_id,{cursor}"},
        rights=(f"read {table}",),
    )  # fmt: skip


ENTITIES = (
    table_entity("incidents", "incident", "Incidents", by_default=True),
    table_entity("changes", "change_request", "Changes", by_default=True),
    table_entity("problems", "problem", "Problems", by_default=True),
    table_entity("requests", "sc_request", "Service requests", by_default=True),
    table_entity("request_items", "sc_req_item", "Requested items", by_default=True),
    table_entity("cis", "cmdb_ci", "Configuration items"),
    table_entity("ci_relations", "cmdb_rel_ci", "CI relations"),
    table_entity("users", "sys_user", "Users"),
    table_entity("groups", "sys_user_group", "Groups"),
    table_entity("group_members", "sys_user_grmember", "Group members"),
    table_entity("journal", "sys_journal_field", "Comments and work notes", cursor="sys_created_on"),
)
FEDERATED = tuple(replace(e, by_default=True) if e.name in {"cis", "ci_relations"} else e for e in ENTITIES)
ALWAYS = {"journal": "elementINcomments,work_notes"}


def entities_of(config: Config) -> tuple[RestEntity, ...]:
    known = FEDERATED if config.cmdb_federation else ENTITIES
    return known + tuple(table_entity(t, t, by_default=True) for t in config.tables)


class CreateIncident(Settings):
    short_description: str = Field(max_length=160)
    description: str | None = None
    urgency: Literal["1", "2", "3"] | None = None
    impact: Literal["1", "2", "3"] | None = None
    category: str | None = None
    caller_id: str | None = None
    assignment_group: str | None = None
    assigned_to: str | None = None
    cmdb_ci: str | None = None
    work_notes: str | None = None
    values: dict[str, str] = Field(default_factory=dict, description="Further columns, e.g. u_source.")


class UpdateRecord(Settings):
    table: Table = "incident"
    sys_id: SysId
    values: dict[str, str] = Field(min_length=1, description="Columns and their new database values.")

    @field_validator("values")
    @classmethod
    def _no_journal(cls, values: dict[str, str]) -> dict[str, str]:
        if twice := {"comments", "work_notes"} & values.keys():
            raise ValueError(
                f"{', '.join(sorted(twice))} would be added again by every attempt; use add_comment or add_work_note"
            )
        return values


class AddNote(Settings):
    table: Table = "incident"
    sys_id: SysId
    text: str = Field(min_length=1)


class Relation(Settings):
    type: SysId
    target: SysId
    sys_class_name: Table


class CreateCi(Settings):
    class_name: Table = Field("cmdb_ci_server", description="CMDB class.")
    attributes: dict[str, str] = Field(min_length=1)
    source: str = Field("ServiceNow", description="A choice value of cmdb_ci.discovery_source.")
    outbound_relations: tuple[Relation, ...] = ()
