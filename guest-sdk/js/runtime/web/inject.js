// Whatever of these a bundle uses as a global is put in; the others are not.
export { URL, URLSearchParams } from "./url.js";
export { structuredClone } from "./clone.js";
export { AbortController, AbortSignal, DOMException } from "./abort.js";
export { Headers } from "./headers.js";
export { Request, Response } from "./body.js";
export { fetch } from "./fetch.js";
