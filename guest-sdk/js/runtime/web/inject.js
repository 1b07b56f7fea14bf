// Whatever of these a bundle uses as a global is put in; the others are not.
export { URL, URLSearchParams } from "./url.js";
export { structuredClone } from "./clone.js";
export { AbortController, AbortSignal, DOMException } from "./abort.js";
export { Headers, Request, Response, fetch } from "./fetch.js";
