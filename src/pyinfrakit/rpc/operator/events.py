"""Answer for the event log of a process, on each of its sockets."""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from pyinfrakit.events import EventLog
from pyinfrakit.rpc.instance.types import read
from pyinfrakit.rpc.jsonrpc import Handler
from pyinfrakit.rpc.operator import types


class EventService:
    """The history of an event log. It is that of the whole process, whatever the request's sub-type."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @property
    def methods(self) -> Mapping[str, Handler]:
        return {"Operator.Events": self._events}

    async def _events(self, params: Raw) -> Any:
        request = read(params, types.EventsParams)
        events = self._log.find(request.Topic or "", request.Since or 0.0, request.After or 0)
        return types.EventsResult(self._log.id, events)
