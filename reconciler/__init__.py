"""GitOps for integrations: manifests in Git become connected, synced and observed integrations."""

__version__ = "0.1.0"
