"""The class that the host calls for requests of `wasi:http`. Only in a component is a module `wit_world`."""

from __future__ import annotations

import traceback
from typing import Any

from componentize_py_types import Err, Ok
from wit_world.imports import wasi_http_types as http
from wit_world.imports.streams import StreamError_Closed

from . import _handler
from . import http as outgoing
from ._component import log
from ._wsgi import respond

# What WASI takes and gives at once.
READ_MAX = 1 << 16
WRITE_MAX = 4096


class IncomingHandler:
    def handle(self, request: Any, response_out: Any) -> None:
        assert _handler.registered is not None
        outgoing.begin()
        try:
            headers = [(name, value.decode("latin-1")) for name, value in request.headers().entries()]
            method, target = method_of(request.method()), request.path_with_query() or "/"
            status, given, body = respond(
                _handler.registered.function,
                method,
                target,
                request.authority() or "",
                headers,
                read(request),
            )
            # Frames are the host's.
            kept = [(name, value.encode("latin-1")) for name, value in given if name != "content-length"]
            fields = http.Fields.from_list(kept)
        except BaseException as error:
            # SystemExit, too.
            log("error", "".join(traceback.format_exception(error)).rstrip())
            status, body = 500, b"the handler failed; the node's log says how\n"
            fields = http.Fields.from_list([("content-type", b"text/plain; charset=utf-8")])
        response = http.OutgoingResponse(fields)
        response.set_status_code(status)
        outgoing_body = response.body()
        http.ResponseOutparam.set(response_out, Ok(response))
        write(outgoing_body, body)


def method_of(method: Any) -> str:
    other = getattr(method, "value", None)
    return other if isinstance(other, str) else type(method).__name__.removeprefix("Method_").upper()


def read(request: Any) -> bytes:
    body = request.consume()
    parts = []
    with body.stream() as stream:
        try:
            while True:
                parts.append(stream.blocking_read(READ_MAX))
        except Err as error:
            if not isinstance(error.value, StreamError_Closed):
                raise OSError("the body of the request has not arrived whole") from None
    return b"".join(parts)


def write(body: Any, data: bytes) -> None:
    with body.write() as stream:
        for at in range(0, len(data), WRITE_MAX):
            stream.blocking_write_and_flush(data[at : at + WRITE_MAX])
    http.OutgoingBody.finish(body, None)
