"""WSGI applications as handlers of `wasi:http`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from . import _handler

# Where the stream and its key are in the address that the client asked.
_BASE_PATH = "meshage-base-path"

A = TypeVar("A", bound=Callable[..., Iterable[bytes]])


def wsgi(application: A) -> A:
    """Makes a WSGI application, such as one of Flask, the handler of its stream: it answers the requests below
    `/api/{stream}/{key}`."""
    _handler.register(application, _handler.WSGI)
    return application


def respond(
    application: Callable[..., Any],
    method: str,
    target: str,
    authority: str,
    headers: list[tuple[str, str]],
    body: bytes,
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body that an application answers with. `target` is path and query."""
    environ = environment(method, target, authority, headers, body)
    started: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(
        status: str, given: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        started.append((status, given))
        return written.append

    answer = application(environ, start_response)
    try:
        written.extend(answer)
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    if not started:
        raise RuntimeError("the application has not called start_response")
    status, given = started[-1]
    return int(status.split(" ")[0]), [(name.lower(), value) for name, value in given], b"".join(written)


def environment(
    method: str, target: str, authority: str, headers: list[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    """The environment of PEP 3333."""
    path, _, query = target.partition("?")
    host, _, port = (
        authority.rpartition(":") if authority.rpartition(":")[2].isdigit() else (authority, "", "80")
    )
    named: dict[str, str] = {}
    for name, value in headers:
        # It would be taken for the one with a hyphen.
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        named[key] = f"{named[key]},{value}" if key in named else value
    base = dict(headers).get(_BASE_PATH, "")
    return {
        "HTTP_HOST": authority,
        **named,
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": unquote_to_bytes(base).decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
