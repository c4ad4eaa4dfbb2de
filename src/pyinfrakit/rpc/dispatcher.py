"""Which service does a call, for which plugin; and the boundary at which a call's exceptions end."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.params import ONLY_OBJECT, Params, read
from pyinfrakit.schema.decode import WrongShape

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Params)

Handler = Callable[[Raw], Awaitable[Any]]
"""Return a result to encode, or a list of pieces of its JSON."""


class Targets:
    """The plugins of a daemon, by the names that requests have for them."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        """Take *plugins* by sub-type; the only one of a daemon without sub-types has the empty name."""
        self.plugins = plugins
        self.sub_types = [sub_type for sub_type in plugins if sub_type]
        self._by_name: dict[str | None, str] = {sub_type: sub_type for sub_type in plugins}
        if "" in plugins:
            self._by_name[None] = self._by_name[ONLY_OBJECT] = ""

    @property
    def objects(self) -> list[str]:
        """The names of the plugins in InfraKit's handshakes."""
        return self.sub_types or [ONLY_OBJECT]

    def read(self, params: Raw, shape: type[P]) -> tuple[P, str]:
        """Decode a call's parameters; return them with the sub-type that they ask for. Raise `Fault` or `WrongShape`."""
        request = read(params, shape)
        sub_type = self._by_name.get(request.Type)
        if sub_type is None:
            raise jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, self._explain_unknown(request.Type))
        return request, sub_type

    def _explain_unknown(self, name: str | None) -> str:
        # The prefix is InfraKit's own: its clients look for it.
        if name in (None, "", ONLY_OBJECT):
            return f"no-plugin: say {' or '.join(f'NAME/{each}' for each in self.sub_types)}"
        return f"no-plugin:{name}"


class Dispatcher:
    """All methods of a daemon, by their names on the wire."""

    def __init__(self, *methods: Mapping[str, Handler]) -> None:
        self._methods = {name: handler for some in methods for name, handler in some.items()}

    async def answer(self, call: jsonrpc.Call | jsonrpc.Rejected) -> jsonrpc.Pieces | None:
        """Do a call and return the reply, or None for a notification. A call's exceptions end here."""
        if isinstance(call, jsonrpc.Rejected):
            return None if call.id is None else jsonrpc.encode_error(call.id, call.fault)
        log.debug("%s is called", call.method)
        try:
            result = await self._find(call.method)(call.params)
        except jsonrpc.Fault as error:
            fault = error
        except WrongShape as error:
            fault = jsonrpc.Fault(jsonrpc.INVALID_PARAMS, str(error))
        except PyInfrakitError as error:
            log.info("%s: %s", call.method, error)
            fault = jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, str(error))
        except Exception as error:
            log.exception("%s: a bug", call.method)
            text = f"a bug in the plugin ({type(error).__name__}): see its log"
            fault = jsonrpc.Fault(jsonrpc.INTERNAL_ERROR, text)
        else:
            pieces = result if isinstance(result, list) else [msgspec.json.encode(result)]
            return None if call.id is None else jsonrpc.encode_result(call.id, pieces)
        return None if call.id is None else jsonrpc.encode_error(call.id, fault)

    def _find(self, name: str) -> Handler:
        try:
            return self._methods[name]
        except KeyError:
            raise jsonrpc.Fault(jsonrpc.METHOD_NOT_FOUND, f"no method {name!r}") from None
