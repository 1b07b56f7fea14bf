"""The stream `{{name}}`: greets who is named, and counts for each partition key how often it has."""

from meshage import Invalid, handler


@handler
def handle(message, state):
    times = state.get("times", 0)
    if message.method == "GET":
        return {"times": times}
    body = message.json()
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or name == "":
        raise Invalid('a name, please: {"name":"Ada"}')
    state["times"] = times + 1
    return {"greeting": f"Hello, {name}!", "times": state["times"]}
