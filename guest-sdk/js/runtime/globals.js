// Must be imported before anything else.
import { log } from "./log.js";
import { needsCall, running } from "./phase.js";
import { now } from "wasi:clocks/monotonic-clock";
import { getRandomBytes } from "wasi:random/random";
import { Promise } from "./promise.js";
import * as loop from "./loop.js";
import { encode, decode } from "./utf8.js";
import { show } from "./show.js";

const define = (o) => {
  for (const [name, value] of Object.entries(o))
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
};
define({
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
  TextEncoder: class TextEncoder {
    get encoding() {
      return "utf-8";
    }
    encode(s = "") {
      return encode(String(s));
    }
  },
  TextDecoder: class TextDecoder {
    #fatal;
    #bom;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
      if (!/^\s*(utf-?8|unicode-1-1-utf-8)\s*$/i.test(label))
        throw new RangeError(`TextDecoder: only UTF-8, not ${label}`);
      this.#fatal = fatal;
      this.#bom = ignoreBOM;
    }
    get encoding() {
      return "utf-8";
    }
    decode(b = new Uint8Array()) {
      const s = decode(
        ArrayBuffer.isView(b) ? new Uint8Array(b.buffer, b.byteOffset, b.byteLength) : new Uint8Array(b),
        this.#fatal,
      );
      return !this.#bom && s.charCodeAt(0) === 0xfeff ? s.slice(1) : s;
    }
  },
  console: Object.fromEntries(
    Object.entries({
      trace: "trace",
      debug: "debug",
      log: "info",
      info: "info",
      warn: "warn",
      error: "error",
    }).map(([name, level]) => [name, (...args) => log(level, args.map(show).join(" "))]),
  ),
  crypto: {
    getRandomValues(a) {
      needsCall("crypto");
      new Uint8Array(a.buffer, a.byteOffset, a.byteLength).set(getRandomBytes(a.byteLength));
      return a;
    },
    randomUUID() {
      needsCall("crypto");
      const b = getRandomBytes(16);
      b[6] = (b[6] & 15) | 64;
      b[8] = (b[8] & 63) | 128;
      return b.toHex().replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
    },
  },
  // The engine's counts from when the component was built.
  performance: { now: () => now() / 1e6, timeOrigin: 0 },
});
// The engine's seed is that of the build, the same in every instance. xoshiro128++ with one of the host's.
let s;
const builds = Math.random;
Math.random = function random() {
  if (!running) return builds();
  s ??= new Uint32Array(getRandomBytes(16).buffer);
  const next = () => {
    const r = (s[0] + s[3]) | 0,
      out = (((r << 7) | (r >>> 25)) + s[0]) >>> 0,
      t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return out;
  };
  return (next() * 2097152 + (next() >>> 11)) / 9007199254740992;
};
Error.stackTraceLimit = 50;
// The engine's gives one of its own promises.
Array.fromAsync = async function fromAsync(from, map, self) {
  const out = typeof this === "function" ? new this() : [];
  let i = 0;
  if (from[Symbol.asyncIterator] ?? from[Symbol.iterator])
    for await (const x of from) {
      out[i] = map ? await map.call(self, x, i) : x;
      i++;
    }
  else for (; i < from.length; i++) out[i] = map ? await map.call(self, await from[i], i) : await from[i];
  out.length = i;
  return out;
};
