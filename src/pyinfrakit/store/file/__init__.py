"""The default store: one JSON file, with a journal beside it."""

from pyinfrakit.store.file.store import FileStore

__all__ = ["FileStore"]
