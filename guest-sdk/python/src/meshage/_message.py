"""One message, as a handler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from . import _json
from ._failures import Invalid

_TIMER = "meshage-timer"


@dataclass(frozen=True, slots=True)
class Message:
    """One message, addressed to the entity (`stream`, `partition_key`)."""

    stream: str
    partition_key: str
    body: bytes = b""
    method: str = "POST"
    """The query as it was sent, without the `?`."""
    query: str = ""
    """`content-type`, and those that the manifest names; in lower case."""
    headers: tuple[tuple[str, str], ...] = ()
    """Unique in the whole mesh; the log has it."""
    id: str = ""

    def json(self) -> Any:
        """The body as JSON; `Invalid` if it is none."""
        return _json.parse(self.body)

    def merged(self) -> dict[str, Any]:
        """The address, then the members of the body. JSON that is no object is under `body`."""
        address = {"stream": self.stream, "partitionKey": self.partition_key}
        if not self.body:
            return address
        body = self.json()
        return {**address, **(body if isinstance(body, dict) else {"body": body}), **address}

    def text(self) -> str:
        """The body as text; `Invalid` if it is not UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            raise Invalid("the body is not UTF-8") from None

    def params(self) -> dict[str, list[str]]:
        """The query, decoded, by name."""
        try:
            return parse_qs(self.query, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise Invalid("the query is not UTF-8 when it is decoded") from None

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        name = name.lower()
        return next((value for own, value in self.headers if own == name), None)

    @property
    def timer(self) -> str | None:
        """The name of the timer that brings the message."""
        return self.header(_TIMER)
