"""Metrics, health and the read-only status API over HTTP."""
