// An HTTP handler: what a module exports answers the requests of `wasi:http`.

import { show } from "../show.js";

/** `exported` is a function, or an object with a function `fetch`; nothing if the module listens for itself. */
export function listen(exported) {
  const handle = typeof exported === "function" ? exported : exported?.fetch?.bind(exported);
  if (handle === undefined) {
    return;
  }
  addEventListener("fetch", (event) => event.respondWith(answer(handle, event.request)));
}

async function answer(handle, request) {
  try {
    return await handle(request);
  } catch (error) {
    console.error(show(error));
    return new Response("the handler failed; the node's log says how\n", { status: 500 });
  }
}
