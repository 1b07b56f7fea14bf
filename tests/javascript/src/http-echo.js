// For benchmarks: an HTTP handler that answers with the body.
export default async (request) => new Response(await request.arrayBuffer());
