"""A tally for each key: state, named values, timers, messages and calls."""

from meshage import Conflict, handler


@handler
def handle(message, state, entity):
    if message.timer is not None:
        state.setdefault("timers", []).append(message.timer)
        return None
    params = {name: values[0] for name, values in message.params().items()}
    if message.method == "GET":
        if "write" in params:
            state["count"] = -1
        return {**state, "values": list(entity.scan("v/"))}
    body = message.json() if message.body else {}
    match params.get("act"):
        case "remind":
            return entity.remind(body["name"], body.get("delay", 0) / 1000)
        case "cancel":
            return entity.cancel(body["name"])
        case "send":
            entity.send("tally", body["to"], {"by": body.get("by", 1)})
        case "call":
            return entity.call("tally", body["to"], {"by": body.get("by", 1)}).json()
        case "ask":
            return entity.call("tally", body["to"], method="GET", query={"a": 1}).json()
        case "set":
            return entity.set(f"v/{body['name']}", body["value"])
        case "clear":
            return entity.clear()
        case "fail":
            state["count"] = 1_000_000
            raise Conflict("nothing of it is kept")
    state["count"] = state.get("count", 0) + body.get("by", 1)
    return {"count": state["count"]}
