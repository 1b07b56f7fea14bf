// One message from the host, for StarlingMonkey: it waits for what a handler returns, and has the web's APIs, `fetch`
// and timers among them.

import { contextOf } from "../context.js";
import { flush, log } from "../log.js";
import { merged } from "../message.js";
import { setRunning } from "../phase.js";
import { handlerOf } from "../registry.js";
import { Reply, replyOf } from "../reply.js";
import { failed } from "../serve.js";
import "./globals.js";
import { endTimers } from "./timers.js";

/** `capabilities` are those that the build has put in. */
export function serve(exported, capabilities = () => ({ members: {}, finish() {} })) {
  const handler = handlerOf(exported);
  return {
    async handle(message) {
      setRunning(true);
      let isOver = false;
      try {
        flush();
        // It comes from another realm.
        message.body = new Uint8Array(message.body);
        const { members, finish } = capabilities(message);
        const context = contextOf(
          message,
          guarded(members, () => isOver),
        );
        const reply = replyOf(await answerOf(await handler(merged(message), context)));
        finish();
        return reply;
      } catch (error) {
        throw failed(error);
      } finally {
        isOver = true;
        endTimers();
        setRunning(false);
      }
    },
  };
}

/** What a handler returned, with an answer of `fetch` as a reply. */
async function answerOf(returned) {
  if (!(returned instanceof Response)) {
    return returned;
  }
  const { status, headers } = returned;
  const body = new Uint8Array(await returned.arrayBuffer());
  return new Reply(body.length > 0 ? body : undefined, { status, headers });
}

/** What a message has left to a promise may run within the next one, which is that of another entity. */
function guarded(members, isOver) {
  const check = () => {
    if (isOver()) {
      throw new Error("the message of this context has been answered");
    }
  };
  const guard = (value) =>
    typeof value === "function"
      ? (...values) => {
          check();
          const result = value(...values);
          return typeof result?.next === "function" ? each(result) : result;
        }
      : value;
  function* each(values) {
    for (const value of values) {
      yield value;
      check();
    }
  }
  const descriptors = Object.entries(Object.getOwnPropertyDescriptors(members));
  const all = descriptors.map(([name, { get, set, value, ...rest }]) => {
    if (get !== undefined) {
      return [name, { ...rest, get: guard(get), set: guard(set) }];
    }
    const isObject = typeof value === "object" && value !== null;
    const inner =
      isObject && Object.fromEntries(Object.entries(value).map(([key, one]) => [key, guard(one)]));
    return [name, { ...rest, value: isObject ? inner : guard(value) }];
  });
  return Object.defineProperties({}, Object.fromEntries(all));
}
