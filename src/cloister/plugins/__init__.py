"""The privileged side of plugins: manifests, what each may do, their processes, and calls."""
