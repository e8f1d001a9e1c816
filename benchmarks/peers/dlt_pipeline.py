"""dlt's `rest_api` source into SQLite or DuckDB: `python dlt_pipeline.py URL FOLDER sqlite|duckdb read|again`.

Runs in dlt's own environment, never in ours. `read` asks for what is newer than dlt remembers and appends it, which costs
less than merging by key; `again` reads everything and replaces the table. The settings are the fast ones of its documentation:
Parquet for DuckDB, files not compressed.
"""

import os
import sys

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
from dlt.sources.rest_api import rest_api_source

PAGER = {"type": "page_number", "base_page": 1, "page_param": "page", "total_path": None, "stop_after_empty_page": True}
SINCE = {"type": "incremental", "cursor_path": "updated_at", "initial_value": "2000-01-01T00:00:00Z"}


def main(url: str, folder: str, database: str, what: str) -> None:
    destinations = {
        "sqlite": lambda: dlt.destinations.sqlalchemy(f"sqlite:///{folder}/records.db"),
        "duckdb": lambda: dlt.destinations.duckdb(f"{folder}/records.duckdb"),
    }
    pipeline = dlt.pipeline(
        "peer", destination=destinations[database](), dataset_name="main", pipelines_dir=f"{folder}/pipelines"
    )
    is_again = what == "again"
    endpoint = {"path": "records", "data_selector": "records", "paginator": PAGER}
    if not is_again:
        endpoint["params"] = {"since": SINCE}
    records = {
        "name": "records",
        "primary_key": "id",
        "write_disposition": "replace" if is_again else "append",
        "endpoint": endpoint,
    }
    source = rest_api_source({"client": {"base_url": url}, "resources": [records]})
    form = {"loader_file_format": "parquet"} if database == "duckdb" else {}
    pipeline.run(source, **form).raise_on_failed_jobs()


main(*sys.argv[1:])
