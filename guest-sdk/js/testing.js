// Runs a handler in Node.js, with its state in memory: for tests.
//
// The handler is bundled with the same runtime as in a component and runs in a context of its own, so it has the globals
// that it has on a node, and no others.

import { createContext, runInContext } from "node:vm";
import { webcrypto } from "node:crypto";

import * as esbuild from "esbuild";

import { bundle } from "./build/bundle.js";

const KINDS = { invalid: 400, "not-found": 404, conflict: 409, unavailable: 503, internal: 500 };

/** Opens a handler. Its calls and its requests to other hosts are answered by what the test gives. */
export async function open(source, { call = nobody("call"), fetch = nobody("fetch") } = {}) {
  const stream = new Stream(call, fetch);
  const { code, positions } = await bundle(source, { uses: "state", global: "built" });
  const context = createContext({
    require: (name) => stream.imports(name),
    atob,
    btoa,
    built: undefined,
    // What the runtime's `where` reads.
    __meshage_map: positions,
  });
  runInContext("delete globalThis.Intl; delete globalThis.WebAssembly", context);
  // Older versions of Node.js have it, but not in contexts.
  runInContext("(symbol) => void (Symbol.dispose ??= symbol)", context)(Symbol.dispose);
  runInContext(`${code}\nglobalThis.built = built;`, context, { filename: source });
  stream.handler = context.built.messageHandler;
  stream.Bytes = runInContext("Uint8Array", context);
  return stream;
}

/** Loads a source, TypeScript too, as a module of Node.js: for HTTP handlers, which use what Node.js has, too. */
export async function load(source) {
  const made = await esbuild.build({
    entryPoints: [source],
    bundle: true,
    write: false,
    format: "esm",
    platform: "node",
    logLevel: "silent",
  });
  return import(`data:text/javascript;base64,${Buffer.from(made.outputFiles[0].text).toString("base64")}`);
}

function nobody(what) {
  return () => {
    throw new Error(`the handler uses ${what}: give \`open\` a function \`${what}\` that answers`);
  };
}

class Stream {
  /** What it has logged: `{ level, text }`. */
  logs = [];
  /** Values, and what was sent, by partition key. */
  #entities = new Map();
  #call;
  #fetch;
  /** What the running message sees and does. */
  #current;
  #count = 0;

  constructor(call, fetch) {
    this.#call = call;
    this.#fetch = fetch;
  }
  /** What the handler has sent: `{ stream, partitionKey, method, query, headers, body, delay, timer }`. */
  get sent() {
    const all = Array.from(this.#entities.values()).flatMap(({ sent }) => sent);
    return all.sort((a, b) => a.number - b.number).map(({ number, ...sent }) => sent);
  }
  get(key, options) {
    return this.send("GET", key, undefined, options);
  }
  post(key, body, options) {
    return this.send("POST", key, body, options);
  }
  put(key, body, options) {
    return this.send("PUT", key, body, options);
  }
  delete(key, options) {
    return this.send("DELETE", key, undefined, options);
  }
  /** Sends a message to the entity, and returns its answer. What a failed one writes and sends is not kept. */
  send(method, partitionKey, body, { query = "", headers = {}, timer } = {}) {
    const [type, bytes] = bodyOf(body);
    const given = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), String(value)]);
    const isTyped = type === undefined || given.some(([name]) => name === "content-type");
    const list = isTyped ? given : [["content-type", type], ...given];
    if (timer !== undefined) {
      list.push(["meshage-timer", timer]);
    }
    const message = {
      id: webcrypto.randomUUID(),
      stream: "test",
      partitionKey,
      method,
      query,
      headers: list,
      body: new this.Bytes(bytes),
    };
    const before = this.#entities.get(partitionKey) ?? { values: new Map(), sent: [] };
    // A call may come back to this stream.
    const outer = this.#current;
    this.#current = { method, values: new Map(before.values), sent: [...before.sent], answers: [] };
    try {
      const { status, headers, body: answer } = this.handler.handle(message);
      const { values, sent } = this.#current;
      this.#entities.set(partitionKey, { values, sent });
      return new Answer(status, Object.fromEntries(headers), answer);
    } catch (error) {
      if (!(error?.tag in KINDS)) {
        throw error;
      }
      const problem = { type: `urn:meshage:${error.tag}`, status: KINDS[error.tag], detail: error.val };
      const given = { "content-type": "application/problem+json" };
      return new Answer(problem.status, given, Buffer.from(JSON.stringify(problem)));
    } finally {
      this.#current = outer;
    }
  }

  /** What a test's function answers, as the host gives it. */
  #answerOf(answer) {
    if (typeof answer?.then === "function") {
      throw new TypeError("`call` and `fetch` of a test answer at once, not with a promise");
    }
    const { status = 200, headers, body } = answer;
    const [type, bytes] = bodyOf(body);
    const list = Object.entries({ ...(type && { "content-type": type }), ...headers });
    return { status, headers: list, body: new this.Bytes(bytes) };
  }

  /** What the handler imports of the host. */
  imports(name) {
    const current = () => this.#current;
    const values = () => current().values;
    const checkWrite = () => {
      if (current().method === "GET") {
        throw new Error("a GET is a read: it cannot write (500 `read-only` on a node)");
      }
    };
    const written = () => {
      checkWrite();
      return values();
    };
    const ask = (target, message) => {
      try {
        return this.#answerOf(this.#call({ ...target, ...message, ...readable(message.body) }));
      } catch (error) {
        throw error.kind in KINDS ? { payload: { tag: error.kind, val: error.message } } : error;
      }
    };
    const cancel = (timer) => {
      checkWrite();
      current().sent = current().sent.filter((one) => one.timer !== timer);
    };
    const interfaces = {
      "meshage:mesh/logging": {
        log: (level, text) => {
          this.logs.push({ level, text });
          console[level === "trace" ? "debug" : level](text);
        },
      },
      "meshage:mesh/state": {
        get: (name) => values().get(name),
        set: (name, value) => void written().set(name, value.slice()),
        delete: (name) => void written().delete(name),
        clear: () => written().clear(),
        scan: (prefix, after, limit) =>
          Array.from(values())
            .filter(([name]) => name.startsWith(prefix) && byBytes(name, after) > 0)
            .sort(([a], [b]) => byBytes(a, b))
            .slice(0, limit),
      },
      "meshage:mesh/messages": {
        send: (target, message, delay, timer) => {
          checkWrite();
          if (timer !== null) {
            cancel(timer);
          }
          const body = Buffer.from(message.body);
          const sent = { ...target, ...message, body, delay, timer: timer ?? undefined };
          current().sent.push({ ...sent, number: this.#count++ });
        },
        cancel,
        call: ask,
      },
      "meshage:mesh/http": {
        send: (request) => {
          const answer = this.#answerOf(this.#fetch({ ...request, ...readable(request.body) }));
          return current().answers.push(answer) - 1;
        },
        receive: () => {
          const { answers } = current();
          const number = answers.findIndex((answer) => answer !== undefined);
          if (number < 0) {
            return undefined;
          }
          const [val] = answers.splice(number, 1, undefined);
          return [number, { tag: "ok", val }];
        },
        abort: (number) => void (current().answers[number] = undefined),
      },
      "wasi:clocks/monotonic-clock": {
        now: () => Math.round(performance.now() * 1e6),
        subscribeInstant: (at) => ({
          block: () => sleep((at - performance.now() * 1e6) / 1e6),
          [Symbol.dispose]() {},
        }),
      },
      "wasi:random/random": {
        getRandomBytes: (count) => webcrypto.getRandomValues(new Uint8Array(Number(count))),
      },
    };
    return interfaces[name.split("@")[0]];
  }
}

function byBytes(a, b) {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function sleep(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Math.max(ms, 0));
}

/** A body of a message that a test sends: JSON, but for text and bytes. */
function bodyOf(body) {
  if (body === undefined) {
    return [undefined, new Uint8Array()];
  }
  if (typeof body === "string") {
    return ["text/plain; charset=utf-8", new Uint8Array(Buffer.from(body))];
  }
  if (ArrayBuffer.isView(body)) {
    return ["application/octet-stream", new Uint8Array(body.buffer, body.byteOffset, body.byteLength)];
  }
  return ["application/json", new Uint8Array(Buffer.from(JSON.stringify(body)))];
}

class Answer {
  constructor(status, headers, body) {
    Object.assign(this, { status, headers, ...readable(body) });
  }
}

/** The members by which a body is read. */
function readable(bytes) {
  const body = Buffer.from(bytes);
  return { body, text: () => body.toString(), json: () => JSON.parse(body.toString()) };
}
