"""Discs with `Init` for cloud-init's NoCloud, which BMCs fetch from a web server and insert into a virtual drive."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pycdlib

from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.providers.redfish.options import Media
from pyinfrakit.record import Spec


class DiscFolder:
    """The folder that a web server serves. Its methods raise `TryAgain` if the folder can't be written."""

    def __init__(self, media: Media, folder: Path) -> None:
        self._folder = folder / media.folder
        self._url = media.url.rstrip("/")
        if not self._folder.is_dir():
            raise CannotStart(f"media.folder: {self._folder}: no such folder")

    def write(self, image: str, id: str, spec: Spec, machine: str) -> str:
        """Write an image, and return its address."""
        metadata = {"instance-id": id, "local-hostname": machine, "logical-id": spec.logical_id, "tags": {**spec.tags}}
        temporary = self._folder / f".{image}"
        try:
            temporary.write_bytes(_make_disc({"meta-data": json.dumps(metadata), "user-data": spec.init}))
            os.chmod(temporary, 0o644)  # the web server may run as another user
            temporary.rename(self._folder / image)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None
        return f"{self._url}/{image}"

    def remove(self, image: str) -> None:
        try:
            (self._folder / image).unlink(missing_ok=True)
        except OSError as error:
            raise TryAgain(f"media.folder: {self._folder}: {error.strerror}") from None


def _make_disc(files: Mapping[str, str]) -> bytes:
    disc = pycdlib.PyCdlib()
    # Rock Ridge for Linux, Joliet for Windows: plain ISO 9660 allows no lower-case names.
    # cloud-init recognizes the disc by its label.
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        disc.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    content = io.BytesIO()
    disc.write_fp(content)
    disc.close()
    return content.getvalue()
