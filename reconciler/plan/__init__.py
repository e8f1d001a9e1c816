"""Desired state x observed state -> plan: pure, no clock, disk or network."""
