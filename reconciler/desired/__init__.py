"""Git commit -> findings and desired state."""
