"""The directory engine: an OCI image layout on a local filesystem."""
