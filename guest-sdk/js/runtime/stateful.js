// The entity's state, what its handler sends, and its calls: for handlers of stateful streams.

import { call, cancel, send } from "meshage:mesh/messages";
import { clear, delete as remove, get, scan, set } from "meshage:mesh/state";
import { called, delayOf, nameOf, outgoing, targetOf } from "./outgoing.js";
import { jsonText } from "./reply.js";
import { decode, encode } from "./utf8.js";

/** The value that is `context.state`, as in the other SDKs. */
const MAIN_VALUE = "state";

/** Values that are read at once. */
const PAGE = 100;

/** The values of the entity, by name: JSON, or bytes. */
const values = {
  get: (name) => read(name, get(nameOf(name))),
  set: (name, value) => set(nameOf(name), encode(jsonText(value))),
  getBytes: (name) => get(nameOf(name)) ?? undefined,
  setBytes: (name, bytes) => set(nameOf(name), bytesOf(bytes)),
  delete: (name) => remove(nameOf(name)),
  clear,
  *scan(prefix = "") {
    let after = "";
    for (;;) {
      const page = Array.from(scan(nameOf(prefix), after, PAGE));
      if (page.length === 0) {
        return;
      }
      for (const [name, value] of page) {
        yield [name, read(name, value)];
      }
      after = page.at(-1)[0];
    }
  },
};

function read(name, bytes) {
  if (bytes === null || bytes === undefined) {
    return undefined;
  }
  try {
    return JSON.parse(decode(bytes, true));
  } catch (error) {
    throw new Error(`the value ${JSON.stringify(name)} is not JSON: ${error.message}`);
  }
}

function bytesOf(value) {
  if (value instanceof ArrayBuffer) {
    return new Uint8Array(value);
  }
  if (!ArrayBuffer.isView(value)) {
    throw new TypeError("setBytes takes a Uint8Array");
  }
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

/** What the context of one message has besides, and what is to be done when its handler has returned. */
export function capabilities(message) {
  const { stream, partitionKey } = message;
  const own = { stream, partitionKey };
  let state;
  // Its text when it was read; nothing if it was not.
  let before;
  let isAssigned = false;
  const members = {
    get state() {
      if (before === undefined && !isAssigned) {
        state = read(MAIN_VALUE, get(MAIN_VALUE)) ?? {};
        before = jsonText(state);
      }
      return state;
    },
    set state(value) {
      isAssigned = true;
      state = value;
    },
    entity: values,
    send(toStream, key, body, options) {
      send(targetOf(toStream, key), outgoing(body, options), delayOf(options?.delay), null);
    },
    remind(name, delay, body) {
      send(own, outgoing(body), delayOf(delay), nameOf(name));
    },
    cancel: (name) => cancel(nameOf(name)),
    call: (toStream, key, body, options) => called(call, targetOf(toStream, key), outgoing(body, options)),
  };
  // What was only looked at is not written: a read must not write.
  const finish = () => {
    if (before === undefined && !isAssigned) {
      return;
    }
    if (state === undefined || state === null) {
      remove(MAIN_VALUE);
      return;
    }
    const after = jsonText(state);
    if (isAssigned || after !== before) {
      set(MAIN_VALUE, encode(after));
    }
  };
  return { members, finish };
}
