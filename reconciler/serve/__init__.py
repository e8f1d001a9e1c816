"""What the daemon answers over HTTP: metrics, health, and the management API."""
