// Requests and answers of `fetch`. Their bodies are there whole, as bytes.

import { AS_REPLY, Reply } from "../reply.js";
import { decode, encode } from "../utf8.js";
import { Headers } from "./headers.js";
import { URL, URLSearchParams } from "./url.js";

/** The type of a body, if it says one, and its bytes. */
function extract(body) {
  if (body === undefined || body === null) {
    return [undefined, null];
  }
  if (typeof body === "string") {
    return ["text/plain;charset=UTF-8", encode(body)];
  }
  if (body instanceof URLSearchParams) {
    return ["application/x-www-form-urlencoded;charset=UTF-8", encode(String(body))];
  }
  if (body instanceof ArrayBuffer) {
    return [undefined, new Uint8Array(body.slice(0))];
  }
  if (ArrayBuffer.isView(body)) {
    return [undefined, new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice()];
  }
  throw new TypeError("a body is a string, bytes or URLSearchParams; an object goes through JSON.stringify");
}

class Body {
  #bytes;
  #isUsed = false;

  constructor(bytes) {
    this.#bytes = bytes;
  }
  get bodyUsed() {
    return this.#isUsed;
  }
  async bytes() {
    return this.#take();
  }
  async arrayBuffer() {
    const bytes = this.#take();
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  }
  async text() {
    return decode(this.#take());
  }
  async json() {
    return JSON.parse(decode(this.#take()));
  }
  #take() {
    const bytes = this._peek();
    this.#isUsed = bytes !== null;
    return bytes ?? new Uint8Array();
  }
  _peek() {
    if (this.#isUsed) {
      throw new TypeError("the body has been read already");
    }
    return this.#bytes;
  }
}

function withType(headers, type) {
  if (type !== undefined && !headers.has("content-type")) {
    headers.set("content-type", type);
  }
  return headers;
}

export class Request extends Body {
  constructor(input, init = {}) {
    const from = input instanceof Request ? input : {};
    const [type, bytes] = init.body === undefined ? [undefined, from._peek?.() ?? null] : extract(init.body);
    super(bytes);
    const method = String(init.method ?? from.method ?? "GET");
    const upper = method.toUpperCase();
    this.method = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"].includes(upper) ? upper : method;
    if (bytes !== null && ["GET", "HEAD"].includes(upper)) {
      throw new TypeError(`a request with the method ${upper} has no body`);
    }
    this.url = from.url ?? new URL(String(input)).href;
    this.headers = withType(new Headers(init.headers ?? from.headers), type);
    this.signal = init.signal ?? from.signal;
    this.redirect = init.redirect ?? from.redirect ?? "follow";
  }
  clone() {
    return new Request(this);
  }
}

/** Statuses of answers that have no body. */
const BODILESS = [204, 205, 304];

export class Response extends Body {
  type = "default";
  url = "";
  redirected = false;

  constructor(body, { status = 200, statusText = "", headers } = {}) {
    const [type, bytes] = extract(body);
    super(bytes);
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`a status is a whole number from 200 to 599, not ${String(status)}`);
    }
    if (bytes !== null && BODILESS.includes(status)) {
      throw new TypeError(`an answer with the status ${status} has no body`);
    }
    this.status = status;
    this.statusText = statusText;
    this.headers = withType(new Headers(headers), type);
  }
  static json(value, init = {}) {
    const headers = withType(new Headers(init.headers), "application/json");
    return new Response(JSON.stringify(value), { ...init, headers });
  }
  get ok() {
    return this.status >= 200 && this.status < 300;
  }
  clone() {
    const { status, statusText, headers, type, url, redirected } = this;
    const bytes = this._peek();
    return Object.assign(new Response(bytes, { headers }), { status, statusText, type, url, redirected });
  }
  /** What a handler returns may be an answer of `fetch`. */
  [AS_REPLY]() {
    const { status, headers } = this;
    return new Reply(this._peek() ?? undefined, { status, headers });
  }
}
