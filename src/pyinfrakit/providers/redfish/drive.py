"""The image by which a machine gets `Init`: cloud-init's NoCloud, on a disc that the BMC fetches and inserts."""

import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import pycdlib

from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.providers.redfish.inventory import Media
from pyinfrakit.record import Spec

KINDS = ("CD", "DVD", "USBStick", "Floppy")
LABEL = "cidata"
"""By which cloud-init knows the disc."""


class Drive:
    """Writes images into a folder that a web server serves."""

    def __init__(self, media: Media, folder: Path) -> None:
        self._folder = folder / media.folder
        self._url = media.url.rstrip("/")
        if not self._folder.is_dir():
            raise CannotStart(f"media.folder: {self._folder}: no such folder")

    def url(self, image: str) -> str:
        """Give where BMCs find an image."""
        return f"{self._url}/{image}"

    @staticmethod
    def name() -> str:
        """Give a new image's name, which nobody guesses: whoever knows it can have what `Init` holds."""
        return f"{secrets.token_hex(16)}.iso"

    def write(self, image: str, id: str, spec: Spec, machine: str) -> None:
        """Write an image. The web server may belong to another user, so others may read it who know its name."""
        told = {"instance-id": id, "local-hostname": machine, "logical-id": spec.logical_id, "tags": dict(spec.tags)}
        temporary = self._folder / f".{image}"
        try:
            temporary.write_bytes(_disc({"meta-data": json.dumps(told).encode(), "user-data": spec.init.encode()}))
            os.chmod(temporary, 0o644)
            temporary.rename(self._folder / image)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None

    def remove(self, image: str) -> None:
        """Remove an image, if it is there."""
        try:
            (self._folder / image).unlink(missing_ok=True)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None


def _disc(files: Mapping[str, bytes]) -> bytes:
    disc = pycdlib.PyCdlib()
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, data) in enumerate(files.items()):
        disc.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    disc.write_fp(written)
    disc.close()
    return written.getvalue()
