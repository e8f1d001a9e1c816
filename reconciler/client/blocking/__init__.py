"""The client that waits. Its groups of calls are made by `tools/client.py`, from docs/openapi.json."""
