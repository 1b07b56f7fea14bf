// The globals that the engine has not, or has in a way that does not work in a component. Must be imported before
// anything else.

import { now } from "wasi:clocks/monotonic-clock";

import { log } from "./log.js";
import * as loop from "./loop.js";
import { Promise } from "./promise.js";
import { crypto, random } from "./random.js";
import { show } from "./show.js";
import { TextDecoder, TextEncoder } from "./text-coding.js";

const logging =
  (level) =>
  (...values) =>
    log(level, values.map(show).join(" "));

/** The engine's gives one of its own promises, which nothing drains. */
async function fromAsync(from, map, self) {
  const made = typeof this === "function" ? new this() : [];
  const mapped = async (value, at) => (map === undefined ? value : map.call(self, value, at));
  let at = 0;
  if (from[Symbol.asyncIterator] ?? from[Symbol.iterator]) {
    for await (const value of from) {
      made[at] = await mapped(value, at);
      at++;
    }
  } else {
    for (; at < from.length; at++) {
      made[at] = await mapped(await from[at], at);
    }
  }
  made.length = at;
  return made;
}

const globals = {
  Promise,
  self: globalThis,
  global: globalThis,
  setTimeout: loop.setTimeout,
  setInterval: loop.setInterval,
  setImmediate: loop.setImmediate,
  clearTimeout: loop.clearTimeout,
  clearInterval: loop.clearTimeout,
  clearImmediate: loop.clearTimeout,
  queueMicrotask: loop.queueMicrotask,
  TextEncoder,
  TextDecoder,
  console: {
    trace: logging("trace"),
    debug: logging("debug"),
    log: logging("info"),
    info: logging("info"),
    dir: logging("info"),
    table: logging("info"),
    group: logging("info"),
    warn: logging("warn"),
    error: logging("error"),
    assert: (isSo, ...values) => isSo || logging("error")("assertion failed", ...values),
    groupEnd() {},
    time() {},
    timeEnd() {},
    count() {},
  },
  crypto,
  // The engine's counts from when the component was built.
  performance: { now: () => now() / 1e6, timeOrigin: 0 },
};
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}
Math.random = random;
Array.fromAsync = fromAsync;
Error.stackTraceLimit = 50;
