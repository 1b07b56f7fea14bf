// What handlers send, and whom. What does not fit would end the instance, so it is checked here.

import { failureOf } from "./failures.js";
import { content } from "./reply.js";
import { decode } from "./utf8.js";

/** Where numbers of milliseconds stop being exact. */
const DELAY_MS_MAX = Number.MAX_SAFE_INTEGER;

export function targetOf(stream, key) {
  return { stream: textOf(stream, "a stream"), partitionKey: textOf(key, "a partition key") };
}

export function nameOf(name) {
  return textOf(name, "a name");
}

function textOf(value, what) {
  if (typeof value !== "string") {
    throw new TypeError(`${what} is a string, not ${value === null ? "null" : typeof value}`);
  }
  return value.toWellFormed();
}

export function delayOf(ms = 0) {
  if (!(Number.isFinite(ms) && ms >= 0 && ms <= DELAY_MS_MAX)) {
    throw new RangeError(`a delay is a number of milliseconds, from 0, not ${String(ms)}`);
  }
  return Math.ceil(ms);
}

export function outgoing(body, { method, query = "", headers = {} } = {}) {
  const { type, bytes } = content(body);
  const list = Object.entries(headers).map(([name, value]) => [
    name.toLowerCase().toWellFormed(),
    String(value).toWellFormed(),
  ]);
  if (type !== undefined && !list.some(([name]) => name === "content-type")) {
    list.unshift(["content-type", type]);
  }
  return {
    method: String(method ?? "POST")
      .toUpperCase()
      .toWellFormed(),
    query: queryText(query),
    headers: list,
    body: bytes,
  };
}

function queryText(query) {
  if (typeof query === "string") {
    return query.toWellFormed();
  }
  const pairs = Object.entries(query).flatMap(([name, value]) =>
    [value].flat().map((one) => `${encodeURIComponent(name)}=${encodeURIComponent(String(one))}`),
  );
  return pairs.join("&");
}

/** Calls, and makes an answer or a failure of the result. */
export function called(ask, target, message) {
  let reply;
  try {
    reply = ask(target, message);
  } catch (error) {
    if (Object.hasOwn(error, "payload")) {
      throw failureOf(error.payload);
    }
    throw error;
  }
  return reply && new Answer(reply);
}

/** What another handler has answered. */
class Answer {
  constructor({ status, headers, body }) {
    this.status = status;
    this.headers = Object.fromEntries(headers);
    this.body = body;
  }
  text() {
    return decode(this.body);
  }
  json() {
    return JSON.parse(decode(this.body, true));
  }
}
