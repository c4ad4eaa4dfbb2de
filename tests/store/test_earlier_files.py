"""Files that earlier versions of the store left load unchanged: see the folder `earlier`.

The version of 2026-11-24 wrote them. `killed` has the state file and the journal of a daemon that was killed,
and `stopped` the state file after a clean stop with the same changes.
"""

import shutil
from pathlib import Path

import pytest
from msgspec import Raw

from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.store.file import FileStore

EARLIER = Path(__file__).parent / "earlier"

HEALED = Record(id="demo-2", state=State.READY, spec=Spec(properties=Raw(b'"x"')), since=1700000004.0)
LABELED = Record(
    id="0uflrfju3fvv-bt9d9b",
    state=State.READY,
    spec=Spec(
        properties=Raw('{"cpus": 2, "note":"é"}'.encode()),
        tags={"infrakit.group": "w", "infrakit.config_sha": "abc"},
        init="#!/bin/sh\necho hi\n",
        logical_id="node-1",
        attachments=(Attachment("vol-1", "ebs"),),
    ),
    since=1700000002.0,
    handle="m-1",
    relabel=True,
)
DESTROYING = Record(
    id="0uflrfjt4vdv-986n8n",
    state=State.DESTROYING,
    spec=Spec(tags={"t": "1"}),
    since=1700000003.0,
    reason="terminate",
)


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_files_of_an_earlier_version_load(tmp_path: Path, name: str) -> None:
    """The store has every record, note and mark of the earlier files, and writes the same entries as the earlier version."""
    folder = tmp_path / name
    shutil.copytree(EARLIER / name, folder)
    with FileStore(folder / "rack1.json", "test") as store:
        assert [HEALED, LABELED, DESTROYING] == list(store.records)
        assert {"Other": Raw(b'{"kept": true}'), "Watch": Raw(b'{"Losses":{"x":1.0},"Held":{}}')} == store.records.notes
        assert ("0123456789abcdef", DESTROYING.id) == (store.mark, store.records.last_id)
    assert ["rack1.json"] == [path.name for path in folder.iterdir()]
    earlier, now = ((each / "rack1.json").read_bytes() for each in (EARLIER / "stopped", folder))
    assert earlier.partition(b',"Checkpoint"')[0] == now.partition(b',"Sums"')[0]
