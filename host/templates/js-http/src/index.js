// The stream `{{name}}`: an HTTP handler. It sees the request below `/api/{{name}}/{partition key}` as it was sent.

export default async (request) => {
  const { pathname } = new URL(request.url);
  if (request.method !== "GET") {
    return new Response(`no ${request.method}\n`, { status: 405 });
  }
  if (pathname !== "/") {
    return new Response(`there is no ${pathname}\n`, { status: 404 });
  }
  return new Response(`Hello, ${request.headers.get("meshage-partition-key") ?? "nobody"}!\n`);
};
