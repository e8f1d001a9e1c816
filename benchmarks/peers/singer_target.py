"""A target of singer-sdk that upserts into SQLite, in its own environment: `python singer_target.py --config FILE`.

One batch is one `executemany` in one transaction; records are not validated, and get no columns of the SDK's.
"""

import json
import sqlite3

from singer_sdk import BatchSink, Target
from singer_sdk import typing as th
from singer_sdk.contrib.msgspec import MsgSpecReader

_COLUMNS = ("id", "number", "state", "priority", "updated_at", "assigned_to", "description")


class Table(BatchSink):
    max_size = 10_000

    def setup(self):
        super().setup()
        self._store = sqlite3.connect(self.config["path"], isolation_level=None, check_same_thread=False)
        self._store.execute("PRAGMA journal_mode=WAL")
        self._store.execute("PRAGMA synchronous=NORMAL")
        self._store.execute(f"CREATE TABLE IF NOT EXISTS records ({', '.join(_COLUMNS)}, PRIMARY KEY (id))")

    def process_batch(self, context):
        changed = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[1:])
        upsert = (
            f"INSERT INTO records VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (id) DO UPDATE SET {changed}"
        )
        self._store.execute("BEGIN")
        self._store.executemany(upsert, [self._row(record) for record in context["records"]])
        self._store.execute("COMMIT")

    def _row(self, record):
        return [json.dumps(value) if isinstance(value, dict) else value for value in map(record.get, _COLUMNS)]


class PeerTarget(Target):
    name = "target-peer"
    config_jsonschema = th.PropertiesList(th.Property("path", th.StringType, required=True)).to_dict()
    default_sink_class = Table
    message_reader_class = MsgSpecReader


PeerTarget.cli()
