"""Discs with `Init` for cloud-init's NoCloud, which BMCs fetch from a web server and insert into a virtual drive."""

import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import pycdlib

from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.providers.redfish.options import Media
from pyinfrakit.record import Spec

MEDIA_TYPES = ("CD", "DVD", "USBStick", "Floppy")
"""Drives that a disc may be in, in order of preference."""

LABEL = "cidata"
"""The label by which cloud-init recognizes the disc."""


class DiscFolder:
    """The folder that a web server serves. Its methods raise `TryAgain` if the folder can't be written."""

    def __init__(self, media: Media, folder: Path) -> None:
        self._folder = folder / media.folder
        self._url = media.url.rstrip("/")
        if not self._folder.is_dir():
            raise CannotStart(f"media.folder: {self._folder}: no such folder")

    def url(self, image: str) -> str:
        """Return the address of an image."""
        return f"{self._url}/{image}"

    @staticmethod
    def make_name() -> str:
        """Return a name for an image. It is as good as a password: it is all that one needs to fetch `Init`."""
        return f"{secrets.token_hex(16)}.iso"

    def write(self, image: str, id: str, spec: Spec, machine: str) -> None:
        """Write an image."""
        metadata = {"instance-id": id, "local-hostname": machine, "logical-id": spec.logical_id, "tags": {**spec.tags}}
        temporary = self._folder / f".{image}"
        try:
            temporary.write_bytes(_make_disc({"meta-data": json.dumps(metadata), "user-data": spec.init}))
            os.chmod(temporary, 0o644)  # the web server may run as another user
            temporary.rename(self._folder / image)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None

    def remove(self, image: str) -> None:
        """Remove an image, if it exists."""
        try:
            (self._folder / image).unlink(missing_ok=True)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None


def _make_disc(files: Mapping[str, str]) -> bytes:
    disc = pycdlib.PyCdlib()
    # Rock Ridge for Linux, Joliet for Windows: plain ISO 9660 allows no lower-case names.
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        disc.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    content = io.BytesIO()
    disc.write_fp(content)
    disc.close()
    return content.getvalue()
