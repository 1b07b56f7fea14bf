// Does what the member `act` of its message says.

import { Conflict, Invalid, NotFound, Reply, Unavailable, type Context, type Message } from "meshage";

let settleKept: (() => void) | undefined;

const delay = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

const thrown: Record<string, () => unknown> = {
  invalid: () => new Invalid("an invalid one"),
  "not-found": () => new NotFound("none there"),
  conflict: () => new Conflict("not now"),
  unavailable: () => new Unavailable("later"),
  error: () => new Error("an error"),
  number: () => 7,
};

const acts: Record<string, (message: Message, context: Context) => unknown> = {
  throw: ({ kind }) => {
    throw thrown[kind]();
  },
  throwLater: async ({ kind }) => {
    await delay(5);
    throw thrown[kind]();
  },
  delays: async () => {
    const began = Date.now();
    await Promise.all([20, 50, 30].map(delay));
    return { waited: Date.now() - began >= 45 };
  },
  never: () => new Promise(() => {}),
  floating: () => {
    void Promise.reject(new Error("nobody waits"));
    return "done";
  },
  leftover: () => {
    setTimeout(() => console.error("a timer of an earlier message"), 20);
    return "done";
  },
  // Waits for what the next message settles, but not for its own answer.
  keep: () => {
    void new Promise<void>((resolve) => {
      settleKept = resolve;
    }).then(() => console.error("code of an earlier message"));
    return "done";
  },
  settleKept: async () => {
    settleKept?.();
    await delay(1);
    return settleKept === undefined ? "another instance" : "settled";
  },
  iterate: async () => {
    async function* numbers() {
      for (let i = 0; i < 3; i++) {
        await delay(1);
        yield i;
      }
    }
    const seen = [];
    for await (const number of numbers()) {
      seen.push(number);
    }
    return seen;
  },
  globals: () => ({
    url: new URL("/a?b=c#d", "https://example.org:8443/x").href,
    search: new URLSearchParams("a=1&a=2").getAll("a"),
    text: new TextDecoder().decode(new TextEncoder().encode("zä€😀")),
    uuid: /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()),
    random: crypto.getRandomValues(new Uint8Array(8)).some((byte) => byte !== 0),
    clone: structuredClone({ a: [new Date(0), new Map([[1, 2]])] }).a[0].getTime(),
  }),
  randoms: () => [Math.random(), crypto.randomUUID()],
  reply: () => new Reply("made", { status: 201, headers: { "x-own": "1" } }),
  badStatus: () => new Reply("", { status: 99 }),
  nothing: () => undefined,
  recurse: () => {
    const deeper = (n: number): number => 1 + deeper(n + 1);
    return deeper(0);
  },
  log: (_, context) => {
    context.log.warn("a warning", { with: ["members"] });
    return "logged";
  },
  see: (_, context) => [
    context.method,
    context.query,
    context.headers["content-type"] ?? null,
    context.stream,
  ],
  get: ({ urls }) =>
    Promise.all(
      urls.map((url: string) => fetch(url).then(async (answer) => [answer.status, await answer.text()])),
    ),
  post: async ({ url }) => {
    const body = JSON.stringify({ a: "ä" });
    const headers = { "content-type": "application/json", "X-Own": "1" };
    return (await globalThis.fetch(url, { method: "POST", body, headers })).json();
  },
  giveUp: async ({ url }) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const names: string[] = [];
    for (const signal of [controller.signal, AbortSignal.timeout(50)]) {
      await fetch(url, { signal }).catch((error) => names.push(error.name));
    }
    // More than may be under way at once.
    for (let i = 0; i < 70; i++) {
      await fetch(url, { signal: AbortSignal.timeout(1) }).catch((error) => names.push(error.name));
    }
    const isRight = names[0] === "AbortError" && names.slice(1).every((name) => name === "TimeoutError");
    return isRight && names.length === 72 ? "gave up" : names;
  },
  walkAway: async ({ url }) => {
    void fetch(url);
    await delay(10);
    return "done";
  },
  failure: ({ url }) => fetch(url).catch((error) => error.message),
  redirected: async ({ url }) => {
    const answer = await fetch(new Request(url, { method: "POST", body: "x", headers: { "x-own": "2" } }));
    return { redirected: answer.redirected, at: new URL(answer.url).pathname, seen: await answer.json() };
  },
  passOn: ({ url }) => fetch(url),
  response: () => Response.json({ a: 1 }, { status: 202 }),
  bytes: (_, context) => context.body,
};

export default (message: Message, context: Context) => {
  if (context.query.raw !== undefined) {
    return context.body;
  }
  return acts[message.act](message, context);
};
