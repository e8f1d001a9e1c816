"""The reconcile loop: observe, apply, status, schedule."""
