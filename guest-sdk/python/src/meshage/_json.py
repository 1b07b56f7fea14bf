"""JSON of bodies and values: what was sent, or refused."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from ._failures import Invalid

# Levels of arrays and objects. More might overflow the stack of a component, which ends the instance.
LEVELS_MAX = 127

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def parse(body: bytes, what: str = "the body") -> Any:
    """Reads a body; `Invalid` if that is not possible, or would change it."""
    try:
        text = body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise Invalid(f"{what} is not JSON: it is not UTF-8") from None
    if text.count("[") + text.count("{") > LEVELS_MAX:
        _check_levels(text, what)

    def refuse(constant: str) -> NoReturn:
        raise Invalid(f"{what} is not JSON: {constant} is no value")

    def read_float(number: str) -> float:
        value = float(number)
        if value in (float("inf"), float("-inf")):
            raise Invalid(f"{what} has the number {number}, which is out of range")
        return value

    try:
        return json.loads(text, parse_constant=refuse, parse_float=read_float)
    except ValueError as error:
        raise Invalid(f"{what} is not JSON: {error}") from None


def _check_levels(text: str, what: str) -> None:
    level = 0
    for token in _TOKENS.findall(text):
        if token in "[{":
            level += 1
            if level > LEVELS_MAX:
                raise Invalid(
                    f"{what} is nested too deeply: at most {LEVELS_MAX} levels of arrays and objects"
                )
        elif token in "]}":
            level -= 1


def write(value: Any) -> bytes:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
