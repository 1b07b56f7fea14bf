// The second argument of a handler: what else there is of the message, and what a handler may do.

import { headers, query } from "./message.js";
import { decode } from "./utf8.js";

const TIMER = "meshage-timer";

/** What the build did not see cannot be used: the host is told beforehand what a handler imports. */
const GUARDED = ["state", "entity", "send", "remind", "cancel", "call"];

class Context {
  /** With `readQuery` and `readHeaders` once somebody has asked: a private field of each would be made for every message. */
  #message;

  constructor(message) {
    this.#message = message;
  }
  /** Unique in the whole mesh; the log has it. */
  get id() {
    return this.#message.id;
  }
  get stream() {
    return this.#message.stream;
  }
  get partitionKey() {
    return this.#message.partitionKey;
  }
  get method() {
    return this.#message.method;
  }
  /** Decoded, by name; `queryText` is as it was sent. */
  get query() {
    return (this.#message.readQuery ??= query(this.#message.query));
  }
  get queryText() {
    return this.#message.query;
  }
  /** Those that the manifest names, and `content-type`. */
  get headers() {
    return (this.#message.readHeaders ??= headers(this.#message.headers));
  }
  /** The body as it was sent. */
  get body() {
    return this.#message.body;
  }
  text() {
    return decode(this.#message.body);
  }
  /** The name of the timer that brings the message. */
  get timer() {
    return this.headers[TIMER];
  }
  get log() {
    return console;
  }
}

for (const name of GUARDED) {
  Object.defineProperty(Context.prototype, name, {
    configurable: true,
    get() {
      throw new Error(
        `the handler was built without \`context.${name}\`: name the argument \`context\` where it is used, so that the build sees it, or ` +
          "build with `--uses state`, or `--uses calls` for a handler without state",
      );
    },
  });
}

/** The context of a message, with the members of its capabilities, if it has any. */
export function contextOf(message, members) {
  const context = new Context(message);
  if (members !== undefined) {
    Object.defineProperties(context, Object.getOwnPropertyDescriptors(members));
  }
  return context;
}
