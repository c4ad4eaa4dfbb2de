"""The default store: one JSON file, with a journal beside it."""

from pyinfrakit.store.file.store import FileStore, default_path, open_file

__all__ = ["FileStore", "default_path", "open_file"]
