// URLs, of core-js: the engine has none.
import "meshage:url";
export const URL = globalThis.URL,
  URLSearchParams = globalThis.URLSearchParams;
