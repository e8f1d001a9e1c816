"""Connectors, one module per remote system; the registry loads `connectors.<type>` when a manifest names it."""
