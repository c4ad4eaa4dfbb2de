"""Events as InfraKit's tools get them: server-sent events, for both ends. No I/O."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from pyinfrakit.events import LoggedEvent
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

HEARTBEAT = b": still here\n\n"
"""A comment, which readers skip: it shows both ends that the connection works."""


class Data(Struct, frozen=True):
    """The part of an event that InfraKit's form has no field for."""

    Cause: str = ""
    Number: int = 0


class Frame(Struct, frozen=True):
    """InfraKit's form of an event: *Topic* is the subject, *ID* the last part of it, and *Message* the reason."""

    Topic: str
    Type: str
    ID: str
    Message: str
    Timestamp: datetime
    Received: datetime
    Data: Data


def encode_frame(event: LoggedEvent) -> bytes:
    """Return an event as a frame of a stream. Its ``id:`` lets a reader go on from there."""
    at = datetime.fromtimestamp(event.at, UTC)
    id = event.subject.rpartition("/")[2]
    data = Data(event.cause, event.number)
    frame = msgspec.json.encode(Frame(event.subject, event.type, id, event.reason, at, at, data))
    return b"id: %d\ndata: %b\n\n" % (event.number, frame)


def read_frames(lines: Iterable[bytes]) -> Iterator[LoggedEvent]:
    """Yield the events in the lines of a stream. Heartbeats, and data of another form, are skipped."""
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data" and (event := _read_frame(value)):
            yield event


def _read_frame(data: bytes) -> LoggedEvent | None:
    try:
        frame = decode(data, Frame)
    except (NotJSON, WrongShape):
        return None
    return LoggedEvent(
        frame.Data.Number, frame.Timestamp.timestamp(), frame.Topic, frame.Type, frame.Data.Cause, frame.Message
    )
