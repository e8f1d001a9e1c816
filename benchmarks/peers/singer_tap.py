"""A tap of singer-sdk, in its own environment: `python singer_tap.py --config FILE [--state FILE]`, messages on stdout.

Encodes with msgspec, as the SDK's documentation advises for speed.
"""

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.pagination import BasePageNumberPaginator


class _Pages(BasePageNumberPaginator):
    def has_more(self, response):
        return bool(response.json()["records"])


class Records(RESTStream):
    name = "records"
    path = "/records"
    records_jsonpath = "$.records[*]"
    primary_keys = ("id",)
    replication_key = "updated_at"
    is_sorted = True
    schema = th.PropertiesList(
        th.Property("id", th.StringType),
        th.Property("number", th.StringType),
        th.Property("state", th.StringType),
        th.Property("priority", th.IntegerType),
        th.Property("updated_at", th.DateTimeType),
        th.Property(
            "assigned_to",
            th.ObjectType(th.Property("name", th.StringType), th.Property("group", th.StringType)),
        ),
        th.Property("description", th.StringType),
    ).to_dict()

    @property
    def url_base(self):
        return self.config["url"]

    def get_new_paginator(self):
        return _Pages(1)

    def get_url_params(self, context, next_page_token):
        since = self.get_starting_replication_key_value(context)
        return {"page": next_page_token or 1} | ({"since": since} if since else {})

    def parse_response(self, response):
        return response.json()["records"]


class PeerTap(Tap):
    name = "tap-peer"
    config_jsonschema = th.PropertiesList(th.Property("url", th.StringType, required=True)).to_dict()
    message_writer_class = MsgSpecWriter

    def discover_streams(self):
        return [Records(self)]


PeerTap.cli()
