"""Changes of manifests that become commits: edits of YAML that touch nothing else, secrets sealed, pushed without force."""
