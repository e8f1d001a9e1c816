"""The client for asyncio. Its groups of calls are made by `tools/client.py`, from docs/openapi.json."""
