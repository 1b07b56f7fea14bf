"""Replies: what a handler returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _json

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply with a status (200 to 599) and headers of its own."""

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a called handler has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return _json.parse(self.body, "the answer")

    def text(self) -> str:
        return self.body.decode()


def written(result: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of what a handler returned."""
    reply = result if isinstance(result, Reply) else Reply(result)
    kind, body = content(reply.body)
    status = (204 if kind is None else 200) if reply.status is None else reply.status
    if type(status) is not int or not 200 <= status <= 599:
        raise TypeError(f"a reply's status is a whole number from 200 to 599, not {status!r}")
    headers = [(str(name).lower(), str(value)) for name, value in dict(reply.headers).items()]
    if kind is not None and all(name != "content-type" for name, _ in headers):
        headers.insert(0, ("content-type", kind))
    return status, headers, body


def content(value: Any) -> tuple[str | None, bytes]:
    """Type and bytes of a body; no type if there is none."""
    if value is None:
        return None, b""
    if isinstance(value, str):
        return _TEXT, value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return _BYTES, bytes(value)
    return _JSON, _json.write(value)
