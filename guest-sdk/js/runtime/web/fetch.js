// `fetch`, to the hosts that the manifest allows.

import { abort, receive, send } from "meshage:mesh/http";

import { addSource } from "../loop.js";
import { needsCall } from "../phase.js";
import { Request, Response } from "./body.js";
import { Headers } from "./headers.js";
import { URL } from "./url.js";

/** As in browsers. */
const REDIRECTS_MAX = 20;
const REDIRECTS = [301, 302, 303, 307, 308];

/** What credentials are: they do not go on to another origin. */
const CREDENTIALS = ["authorization", "cookie", "proxy-authorization"];

/** What waits for the answers of the running message, by the numbers of the requests, which begin anew with each message. */
let waiting = new Map();

addSource({
  isWaiting: () => waiting.size > 0,
  /** Takes the next answer, if there is one within so many milliseconds; `null`: however long it takes. */
  receive(ms) {
    const received = receive(ms);
    if (received === undefined || received === null) {
      return false;
    }
    const [request, answer] = received;
    const told = waiting.get(request);
    waiting.delete(request);
    told?.tell(answer);
    return true;
  },
  forget() {
    for (const { unlisten } of waiting.values()) {
      unlisten();
    }
    waiting = new Map();
  },
});

export async function fetch(input, init) {
  needsCall("fetch");
  const request = new Request(input, init);
  let { url, method, headers } = request;
  let body = request._peek();
  for (let redirects = 0; ; redirects++) {
    const {
      status,
      headers: given,
      body: bytes,
    } = await exchange({ url, method, headers, body }, request.signal);
    const target = REDIRECTS.includes(status) ? given.get("location") : null;
    if (target === null || request.redirect === "manual") {
      return answered(status, given, bytes, url, redirects > 0);
    }
    if (request.redirect === "error" || redirects === REDIRECTS_MAX) {
      const why =
        request.redirect === "error" ? "it is redirected" : `it is redirected ${REDIRECTS_MAX} times`;
      throw because(failed(url), `${why}, to ${target}`);
    }
    const next = new URL(target, url);
    if (next.origin !== new URL(url).origin) {
      CREDENTIALS.forEach((name) => headers.delete(name));
    }
    url = next.href;
    if (status === 303 ? !["GET", "HEAD"].includes(method) : status < 303 && method === "POST") {
      method = "GET";
      body = null;
      for (const name of ["content-type", "content-language", "content-encoding", "content-location"]) {
        headers.delete(name);
      }
    }
  }
}

/** Sends one request, and waits for its answer. */
function exchange({ url, method, headers, body }, signal) {
  signal?.throwIfAborted();
  // Its stack says who called, if it fails later.
  const failure = failed(url);
  let number;
  try {
    const list = Array.from(headers, ([name, value]) => [name, value.toWellFormed()]);
    number = send({ method, url: url.split("#")[0], headers: list, body: body ?? new Uint8Array() });
  } catch (error) {
    throw Object.hasOwn(error, "payload") ? because(failure, error.payload.val) : error;
  }
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      waiting.delete(number);
      unlisten();
      abort(number);
      reject(signal.reason);
    };
    const unlisten = () => signal?.removeEventListener("abort", onAbort);
    const tell = ({ tag, val }) => {
      unlisten();
      if (tag === "err") {
        reject(because(failure, val.val));
      } else {
        resolve({ ...val, headers: new Headers(val.headers) });
      }
    };
    signal?.addEventListener("abort", onAbort);
    waiting.set(number, { tell, unlisten });
  });
}

/** The answer, whatever its status: what a handler may make is less. */
function answered(status, headers, bytes, url, redirected) {
  const response = new Response(bytes.length > 0 ? bytes : null, { headers });
  return Object.assign(response, { type: "basic", status, url, redirected });
}

/** As in browsers and Node.js: a request without an answer is a TypeError. */
function failed(url) {
  return new TypeError(`fetch of ${url} failed`);
}

function because(failure, why) {
  failure.message += `: ${why}`;
  return failure;
}
