"""The entity that a message is for, and the others: state, messages, timers, calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from . import _json
from ._backend import backend
from ._reply import Answer, content

# The value that is a handler's `state`, as in the other SDKs.
MAIN_VALUE = "state"

# Values that are read at once.
_PAGE = 100

Query = str | Mapping[str, Any]


class Mesh:
    """Other entities, for a handler without state: its parameter `mesh`."""

    def call(
        self,
        stream: str,
        key: str,
        body: Any = None,
        *,
        method: str = "POST",
        query: Query = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks an entity, and waits for its answer. It takes effect whatever becomes of the caller.

        Raises the failure of the other handler, or `Unavailable` if nothing ran.
        """
        return backend().call(stream, key, *_outgoing(body, method, query, headers))

    def send(
        self,
        stream: str,
        key: str,
        body: Any = None,
        *,
        method: str = "POST",
        query: Query = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Sends a message at once, and waits until it is delivered."""
        backend().send(stream, key, *_outgoing(body, method, query, headers), 0, None)


class Entity(Mesh):
    """The entity that the message is for: a handler's parameter `entity`, which makes its stream stateful.

    Values have names of 1 to 1,024 bytes, and at most 1 MiB; one message writes at most 16 MiB. What a handler writes
    is committed before its reply leaves, all of it or nothing. A GET cannot write (500 `read-only`).
    """

    def __init__(self, stream: str, key: str) -> None:
        self.stream = stream
        self.key = key

    def get(self, name: str, default: Any = None) -> Any:
        value = backend().get(name)
        return default if value is None else _json.parse(value, f"the value {name!r}")

    def set(self, name: str, value: Any) -> None:
        backend().set(name, _json.write(value))

    def get_bytes(self, name: str) -> bytes | None:
        return backend().get(name)

    def set_bytes(self, name: str, value: bytes) -> None:
        backend().set(name, bytes(value))

    def delete(self, name: str) -> None:
        backend().delete(name)

    def clear(self) -> None:
        """Deletes all values."""
        backend().clear()

    def scan(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Values whose names begin with the prefix, in the order of the names' bytes."""
        after = ""
        while page := backend().scan(prefix, after, _PAGE):
            for name, value in page:
                yield name, _json.parse(value, f"the value {name!r}")
            after = page[-1][0]

    def send(
        self,
        stream: str,
        key: str,
        body: Any = None,
        *,
        method: str = "POST",
        query: Query = "",
        headers: Mapping[str, str] | None = None,
        delay: float = 0,
    ) -> None:
        """Sends a message that leaves with the commit, `delay` seconds later. On a stateful stream it takes effect once."""
        outgoing = _outgoing(body, method, query, headers)
        backend().send(stream, key, *outgoing, _milliseconds(delay), None)

    def remind(self, name: str, delay: float, body: Any = None) -> None:
        """Sets a timer: this entity gets a message whose `timer` is the name, `delay` seconds after the commit. A later
        one of the same name takes its place."""
        outgoing = _outgoing(body, "POST", "", None)
        backend().send(self.stream, self.key, *outgoing, _milliseconds(delay), name)

    def cancel(self, name: str) -> None:
        """Removes a timer."""
        backend().cancel(name)


def _outgoing(
    body: Any, method: str, query: Query, headers: Mapping[str, str] | None
) -> tuple[str, str, list[tuple[str, str]], bytes]:
    kind, data = content(body)
    given = [(name.lower(), str(value)) for name, value in (headers or {}).items()]
    if kind is not None and all(name != "content-type" for name, _ in given):
        given.insert(0, ("content-type", kind))
    text = query if isinstance(query, str) else urlencode(query, doseq=True)
    return method.upper(), text, given, data


def _milliseconds(delay: float) -> int:
    if not (isinstance(delay, int | float) and math.isfinite(delay) and delay >= 0):
        raise ValueError(f"a delay is a number of seconds, from 0, not {delay!r}")
    return math.ceil(delay * 1000)


class StateValue:
    """The value `state` during one message: a handler's parameter `state` is what it has, `{}` at first."""

    def __init__(self) -> None:
        stored = backend().get(MAIN_VALUE)
        self.value: Any = {} if stored is None else _json.parse(stored, "the state")
        self._before = _json.write(self.value)

    def finish(self) -> None:
        """Writes it, if the handler has changed it: a read must not write."""
        after = _json.write(self.value)
        if after != self._before:
            backend().set(MAIN_VALUE, after)
