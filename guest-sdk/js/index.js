// What handlers import from "meshage".

export { Conflict, Failure, Invalid, NotFound, Unavailable } from "./runtime/failures.js";
export { Reply } from "./runtime/reply.js";
export { register } from "./runtime/registry.js";
