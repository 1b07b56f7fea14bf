"""The backend in a component: the imports of its world, and the class that the host calls. Only there is a module
`wit_world`."""

from __future__ import annotations

import logging as std_logging
import traceback
from typing import Any

from componentize_py_types import Err
from wit_world.imports import http as wit_http
from wit_world.imports import logging

from . import _handler
from ._failures import KINDS, Failure
from ._message import Message
from ._reply import Answer
from .http import HttpError

# What the world does not import is not there: see `build.world`.
calls: Any = None
messages: Any = None
state: Any = None
outgoing: Any = None
try:
    from wit_world.imports import messages, outgoing, state  # type: ignore[no-redef]
except ImportError:
    try:
        from wit_world.imports import calls, outgoing  # type: ignore[no-redef]
    except ImportError:
        pass

# An entry of the log has at most 8 KiB: of a longer text the end says most.
TEXT_MAX = 8000
# While the component is built, an import of the world is a trap.
built = False
# A handler of HTTP has no failures.
types: Any = None
try:
    from wit_world.imports import types  # type: ignore[no-redef]
except ImportError:
    pass
_VARIANTS = types and {
    "invalid": types.Failure_Invalid,
    "not-found": types.Failure_NotFound,
    "conflict": types.Failure_Conflict,
    "unavailable": types.Failure_Unavailable,
    "internal": types.Failure_Internal,
}
_KINDS = types and {variant: kind for kind, variant in _VARIANTS.items()}
_HTTP_KINDS = {
    wit_http.Error_Invalid: "invalid",
    wit_http.Error_Denied: "denied",
    wit_http.Error_Failed: "failed",
}
_LEVELS = {name: logging.Level[name.upper()] for name in ("trace", "debug", "info", "warn", "error")}


def log(level: str, text: str) -> None:
    if not built:
        print(f"{level}: {text}")
        return
    data = text.encode("utf-8", "replace")
    if len(data) > TEXT_MAX:
        text = (
            data[:1000].decode("utf-8", "ignore")
            + "\n…\n"
            + data[-TEXT_MAX + 1010 :].decode("utf-8", "ignore")
        )
    logging.log(_LEVELS[level], text)


# From which number of `logging` on an entry has a level.
_LEAST = ((40, "error"), (30, "warn"), (20, "info"), (10, "debug"), (0, "trace"))


class WitBackend:
    log = staticmethod(log)

    def call(self, stream: str, key: str, method: str, query: str, headers: list[Any], body: bytes) -> Answer:
        function = messages.call if messages else calls.call
        try:
            reply = function(outgoing.Target(stream, key), outgoing.Outgoing(method, query, headers, body))
        except Err as error:
            # It is frozen, so `contextlib` could not raise it again.
            raise _failure(error) from None
        return Answer(reply.status, dict(reply.headers), reply.body)

    def send(
        self,
        stream: str,
        key: str,
        method: str,
        query: str,
        headers: list[Any],
        body: bytes,
        delay_ms: int,
        name: str | None,
    ) -> None:
        to, message = outgoing.Target(stream, key), outgoing.Outgoing(method, query, headers, body)
        if messages:
            messages.send(to, message, delay_ms, name)
            return
        try:
            calls.send(to, message)
        except Err as error:
            raise _failure(error) from None

    def cancel(self, name: str) -> None:
        messages.cancel(name)

    if state:
        get, set, delete = staticmethod(state.get), staticmethod(state.set), staticmethod(state.delete)
        scan, clear = staticmethod(state.scan), staticmethod(state.clear)

    def http_send(self, method: str, url: str, headers: list[Any], body: bytes) -> int:
        try:
            return int(wit_http.send(wit_http.Request(method, url, headers, body)))
        except Err as error:
            raise _http_error(error) from None

    def http_receive(self, wait_ms: int | None) -> tuple[int, Answer | HttpError] | None:
        received = wit_http.receive(wait_ms)
        if received is None:
            return None
        number, result = received
        if isinstance(result, Err):
            return number, _http_error(result)
        return number, Answer(result.value.status, dict(result.value.headers), result.value.body)

    def http_abort(self, number: int) -> None:
        wit_http.abort(number)


def _failure(error: Any) -> Failure:
    return KINDS[_KINDS[type(error.value)]](error.value.value)


def _http_error(error: Any) -> HttpError:
    return HttpError(_HTTP_KINDS[type(error.value)], error.value.value)


class LogHandler(std_logging.Handler):
    """The root handler of `logging`: one record is one entry, its traceback included."""

    def emit(self, record: std_logging.LogRecord) -> None:
        level = next(level for least, level in _LEAST if record.levelno >= least)
        try:
            log(level, self.format(record))
        except Exception as error:
            log("error", f"a log record could not be formatted: {error!r}")


class MessageHandler:
    """What componentize-py calls. Whatever a handler raises, nothing but `Err` leaves here: else the runtime aborts."""

    def handle(self, sent: Any) -> Any:
        message = Message(
            stream=sent.stream,
            partition_key=sent.partition_key,
            body=sent.body,
            method=sent.method,
            query=sent.query,
            headers=tuple(sent.headers),
            id=sent.id,
        )
        assert _handler.registered is not None
        try:
            status, headers, body = _handler.run(message, _handler.registered)
            return types.Reply(status, headers, body)
        except Failure as failure:
            refusal = _VARIANTS[failure.kind](str(failure))
        except BaseException as error:
            # SystemExit, too.
            log("error", "".join(traceback.format_exception(error)).rstrip())
            refusal = types.Failure_Internal("the handler failed; the node's log says how")
        raise Err(refusal)
