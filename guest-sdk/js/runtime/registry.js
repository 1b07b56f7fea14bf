// The handler, if it is registered as in meshage for Node.js instead of exported.

let registered;

/** Registers the handler of a stream. A component has one, whose stream is the name of its file. */
export function register(stream, handler) {
  if (typeof stream !== "string" || typeof handler !== "function") {
    throw new TypeError("register takes the name of a stream, and a function");
  }
  if (registered !== undefined) {
    throw new Error("a component has one handler: build each in a file of its own");
  }
  registered = handler;
}

/** The exported handler, or else the registered one. What a CommonJS module exports is an object in any case. */
export function handlerOf(exported) {
  const handler = typeof exported === "function" ? exported : (registered ?? exported);
  if (typeof handler !== "function") {
    throw new TypeError(
      'there is no handler: `export default (message, context) => …`, or `register("echo", message => …)`',
    );
  }
  return handler;
}
