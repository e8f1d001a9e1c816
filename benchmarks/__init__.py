"""What the project promises about speed, measured beside peers or bare loops in the same run: `python -m benchmarks`."""
