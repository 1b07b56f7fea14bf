// Whatever of these a bundle uses as a global is put in; the others are not.
export { URL, URLSearchParams } from "./url.js";
export { structuredClone } from "./clone.js";
