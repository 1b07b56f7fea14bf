"""For benchmarks: an HTTP handler that answers with the body."""

from meshage import wsgi


@wsgi
def application(environ, start_response):
    start_response("200 OK", [("content-type", "application/octet-stream")])
    return [environ["wsgi.input"].read()]
