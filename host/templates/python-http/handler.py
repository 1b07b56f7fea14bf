"""The stream `{{name}}`: an HTTP handler, a WSGI application. It sees the request below `/api/{{name}}/{partition key}` as it
was sent."""

from meshage import wsgi


@wsgi
def application(environ, start_response):
    key = environ.get("HTTP_MESHAGE_PARTITION_KEY", "nobody")
    status, text = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], key)
    start_response(status, [("content-type", "text/plain; charset=utf-8")])
    return [text.encode()]


def answer(method, path, key):
    if method != "GET":
        return "405 Method Not Allowed", f"no {method}\n"
    if path != "/":
        return "404 Not Found", f"there is no {path}\n"
    return "200 OK", f"Hello, {key}!\n"
