"""Composition roots: offline (plan, validate) and daemon; the only rooms that know all others."""
