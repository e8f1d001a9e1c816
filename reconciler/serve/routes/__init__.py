"""One module per subject of the API; `api` puts them together."""
