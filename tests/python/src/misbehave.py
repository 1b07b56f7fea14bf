"""Does what the member `act` of its message says, or what its query does."""

import asyncio
import logging
import threading
import time
import uuid

from meshage import http, Conflict, Invalid, NotFound, Reply, Unavailable, handler

THROWN = {
    "invalid": Invalid("an invalid one"),
    "not-found": NotFound("none there"),
    "conflict": Conflict("not now"),
    "unavailable": Unavailable("later"),
    "error": ValueError("an error"),
}


def throw(body):
    raise THROWN[body["kind"]]


async def throw_later(body):
    await asyncio.sleep(0.005)
    throw(body)


async def delays(body):
    began = time.monotonic()
    await asyncio.gather(asyncio.sleep(0.02), asyncio.sleep(0.05), asyncio.sleep(0.03))
    return {"waited": 0.045 <= time.monotonic() - began < 5}


async def never(body):
    await asyncio.get_running_loop().create_future()


def recurse(body):
    return recurse(body)


def lazily(body):
    import string
    import wsgiref.headers  # noqa: F401

    return string.digits


def log(body):
    logging.getLogger("own").warning("a warning %s", [1])
    return "logged"


async def get(body):
    answers = await asyncio.gather(*(http.fetch("GET", url) for url in body["urls"]))
    return [[answer.status, answer.text()] for answer in answers]


def post(body):
    return http.request("POST", body["url"], {"a": "ä"}, headers={"X-Own": "1"}).json()


async def give_up(body):
    try:
        async with asyncio.timeout(0.05):
            await http.fetch("GET", body["url"])
    except TimeoutError:
        pass
    # More than may be under way at once.
    for _ in range(70):
        try:
            http.request("GET", body["url"], timeout=0.001)
            return "an answer"
        except TimeoutError:
            pass
    return "gave up"


async def walk_away(body):
    asyncio.ensure_future(http.fetch("GET", body["url"]))
    await asyncio.sleep(0.01)
    return "done"


def failure(body):
    try:
        http.request("GET", body["url"])
    except http.HttpError as error:
        return str(error)


ACTS = {
    "get": get,
    "post": post,
    "giveUp": give_up,
    "walkAway": walk_away,
    "failure": failure,
    "throw": throw,
    "throwLater": throw_later,
    "delays": delays,
    "never": never,
    "recurse": recurse,
    "lazily": lazily,
    "log": log,
    "reply": lambda body: Reply("made", status=201, headers={"X-Own": "1"}),
    "badStatus": lambda body: Reply("", status=99),
    "nothing": lambda body: None,
    "thread": lambda body: threading.Thread(target=print).start(),
    "random": lambda body: str(uuid.uuid4()),
}


@handler
async def handle(message):
    params = message.params()
    if "raw" in params:
        return message.body
    if "echo" in params:
        return {"echoed": message.merged()}
    body = message.json()
    if body["act"] == "see":
        return [message.method, message.params(), message.header("content-type"), message.stream]
    result = ACTS[body["act"]](body)
    return await result if asyncio.iscoroutine(result) else result
