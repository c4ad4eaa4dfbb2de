"""Fetch the templates of scripts, from files and web addresses, with limits; keep them from one commit to the next."""

import asyncio
import os
import stat

import aiohttp

from pyinfrakit.errors import InvalidSpec, TryAgain
from pyinfrakit.group.connections import hide_credentials
from pyinfrakit.group.go_template import Template, TemplateError
from pyinfrakit.schema.redactor import cut

MAX_SCRIPT = 1024 * 1024
"""Largest template, in bytes."""

FETCH_TIMEOUT = 10.0
"""Seconds in which a template has to be here."""

MAX_SCRIPTS = 1000
"""Most templates that are kept."""

_FIELD = "Properties.InitScriptTemplateURL"


class Scripts:
    """Templates by their addresses."""

    def __init__(self) -> None:
        self._templates: dict[str, asyncio.Task[Template]] = {}

    async def fetch(self, url: str, *, anew: bool = False) -> Template:
        """Return the template at *url*: the one that is kept, unless it is to be fetched *anew*.

        Raise `InvalidSpec` if there is none, or it can't be read as a template, and `TryAgain` if its server fails.
        """
        task = None if anew else self._templates.get(url)
        if task is None:
            if len(self._templates) >= MAX_SCRIPTS:
                del self._templates[next(iter(self._templates))]
            task = self._templates[url] = asyncio.create_task(_fetch(url))
            task.add_done_callback(lambda task: self._forget_failure(url, task))
        return await asyncio.shield(task)

    def _forget_failure(self, url: str, task: asyncio.Task[Template]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and self._templates.get(url) is task:
            del self._templates[url]


async def _fetch(url: str) -> Template:
    scheme, separator, rest = url.partition("://")
    if scheme == "file" and rest.startswith("/"):
        data = await asyncio.to_thread(_read_file, rest)
    elif scheme in ("http", "https"):
        data = await _download(url)
    elif scheme == "str" and separator:
        data = rest.encode()
    else:
        raise _refuse(url, "expected an address such as file:///srv/init.sh or https://host/init.sh")
    if len(data) > MAX_SCRIPT:
        raise _refuse(url, f"is larger than {MAX_SCRIPT >> 20} MiB")
    try:
        return Template(data.decode())
    except UnicodeDecodeError as error:
        raise _refuse(url, f"is not UTF-8 at byte {error.start}") from None
    except TemplateError as error:
        raise _refuse(url, str(error)) from None


def _read_file(path: str) -> bytes:
    url = f"file://{path}"
    try:
        # A pipe would keep this thread for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refuse(url, "is not a regular file")
            return file.read(MAX_SCRIPT + 1)
    except (OSError, ValueError) as error:
        raise _refuse(url, getattr(error, "strerror", None) or str(error)) from None


async def _download(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, max_redirects=5) as response:
            if response.status >= 500 or response.status == 429:
                raise TryAgain(f"{_FIELD}: {_show(url)} answered {response.status} {response.reason}")
            if response.status != 200:
                raise _refuse(url, f"the server answered {response.status} {response.reason}")
            pieces, size = [], 0
            async for piece in response.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_SCRIPT:
                    break
            return b"".join(pieces)
    except TimeoutError:
        raise TryAgain(f"{_FIELD}: {_show(url)} did not answer in {FETCH_TIMEOUT:g} s") from None
    except aiohttp.InvalidURL:
        raise _refuse(url, "is no web address") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TryAgain(
            f"{_FIELD}: {_show(url)} can't be fetched: {str(error).replace(url, _show(url)) or type(error).__name__}"
        ) from None


def _refuse(url: str, problem: str) -> InvalidSpec:
    return InvalidSpec(_FIELD, f"{_show(url)}: {problem}")


def _show(url: str) -> str:
    """Return an address without credentials, and without the script that one of the scheme ``str`` is."""
    return "str://…" if url.startswith("str:") else cut(hide_credentials(url), 200)
