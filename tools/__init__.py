"""What makes parts of this repository; not in the package."""
