"""Runs a handler as plain Python, with its state in memory: for tests.

from meshage.testing import open_stream

stream = open_stream("handler.py")
assert stream.post("ada", {"name": "Ada"}).json() == {"greeting": "Hello, Ada!", "times": 1}
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ._backend import use
from ._message import Message
from ._reply import Answer, content, written
from .dev import Dev, Written, stream_of

__all__ = ["TestStream", "open_stream"]


class Options(TypedDict, total=False):
    """What else a message has. With `timer` it is that of the timer of this name."""

    query: str
    headers: Mapping[str, str]
    timer: str


class TestStream:
    """Entities in memory, by partition key. What a message that fails writes and sends is not kept."""

    __test__ = False  # of pytest

    def __init__(self, file: Path, call: Callable[[Message], Any] | None) -> None:
        self._dev = _Alone([file], call)
        self._name = stream_of(file)
        self._dev.refresh()
        if error := self._dev.streams[self._name].error:
            raise ImportError(error)
        if self._dev.is_wsgi(self._dev.streams[self._name]):
            raise TypeError(f"{file} has a WSGI application: call it as such")

    def get(self, key: str, **options: Unpack[Options]) -> Answer:
        return self.send("GET", key, **options)

    def post(self, key: str, body: Any = None, **options: Unpack[Options]) -> Answer:
        return self.send("POST", key, body, **options)

    def send(self, method: str, key: str, body: Any = None, **options: Unpack[Options]) -> Answer:
        """Sends a message to the entity, and returns its answer. The body is JSON, but for text and bytes."""
        kind, data = content(body)
        given = [("content-type", kind)] if kind else []
        given += [(name.lower(), value) for name, value in options.get("headers", {}).items()]
        given += [("meshage-timer", options["timer"])] if "timer" in options else []
        query = options.get("query", "")
        message = Message(self._name, key, data, method, query, tuple(given), str(uuid.uuid4()))
        use(self._dev.backend)
        status, answered, answer = self._dev.answer(message)
        return Answer(status, dict(answered), answer)

    @property
    def sent(self) -> list[Message]:
        """What the handler has sent, timers included, in the order in which it is due."""
        return [message for _, _, message, _, _ in sorted(self._dev.timers, key=lambda timer: timer[:2])]


def open_stream(file: str | Path, *, call: Callable[[Message], Any] | None = None) -> TestStream:
    """Opens a handler. `call` answers its calls of other entities: with what a handler returns, or by raising a failure."""
    return TestStream(Path(file), call)


class _Alone(Dev):
    """One stream, whose calls of others the test answers."""

    def __init__(self, files: list[Path], call: Callable[[Message], Any] | None) -> None:
        super().__init__(files)
        self.call = call

    def handle(self, message: Message) -> Written:
        if message.stream in self.streams:
            return super().handle(message)
        if self.call is None:
            raise RuntimeError(
                "the handler calls another entity: give `open_stream` a function `call` that answers"
            )
        return written(self.call(message))
