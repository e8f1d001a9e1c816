"""One module per command of `reconciler`."""
