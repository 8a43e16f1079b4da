"""The engine on an object store."""
