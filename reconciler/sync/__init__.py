"""Remote -> pages -> record versions."""
