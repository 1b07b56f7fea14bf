// Replies: what a handler returns, as the host takes it. What does not fit would end the instance, so
// everything is checked here.

import { encode } from "./utf8.js";

const JSON_TYPE = "application/json";
const TEXT_TYPE = "text/plain; charset=utf-8";
const BYTES_TYPE = "application/octet-stream";

/** A reply with a status and headers of its own. */
export class Reply {
  constructor(body, { status, headers } = {}) {
    this.body = body;
    this.status = status;
    this.headers = headers;
  }
}

/** The method of an object that is a reply in another form. */
export const AS_REPLY = Symbol("meshage.reply");

/** What the host takes, of what a handler returned. */
export function replyOf(returned) {
  const value = typeof returned?.[AS_REPLY] === "function" ? returned[AS_REPLY]() : returned;
  if (!(value instanceof Reply)) {
    const { type, bytes } = content(value);
    return type === undefined
      ? { status: 204, headers: [], body: bytes }
      : { status: 200, headers: [["content-type", type]], body: bytes };
  }
  const { type, bytes } = content(value.body);
  const status = value.status ?? (type === undefined ? 204 : 200);
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new TypeError(`a reply's status is a whole number from 200 to 599, not ${String(status)}`);
  }
  const headers = headerList(value.headers);
  if (type !== undefined && !headers.some(([name]) => name === "content-type")) {
    headers.unshift(["content-type", type]);
  }
  return { status, headers, body: bytes };
}

function headerList(given) {
  if (given === undefined || given === null) {
    return [];
  }
  const entries = typeof given[Symbol.iterator] === "function" ? given : Object.entries(given);
  return Array.from(entries, (entry) => {
    if (!Array.isArray(entry) || entry.length !== 2) {
      throw new TypeError("a reply's headers are an object, or a list of pairs of name and value");
    }
    return [String(entry[0]).toLowerCase().toWellFormed(), String(entry[1]).toWellFormed()];
  });
}

/** Type and bytes of a body; no type if there is no body. */
export function content(value) {
  if (value === undefined || value === null) {
    return { type: undefined, bytes: new Uint8Array() };
  }
  if (typeof value === "string") {
    return { type: TEXT_TYPE, bytes: encode(value) };
  }
  if (value instanceof Uint8Array) {
    return { type: BYTES_TYPE, bytes: value };
  }
  if (value instanceof ArrayBuffer) {
    return { type: BYTES_TYPE, bytes: new Uint8Array(value) };
  }
  if (ArrayBuffer.isView(value)) {
    return { type: BYTES_TYPE, bytes: new Uint8Array(value.buffer, value.byteOffset, value.byteLength) };
  }
  return { type: JSON_TYPE, bytes: encode(jsonText(value)) };
}

/** Refuses what JSON would lose. */
function checked(_, value) {
  if (value instanceof Map || value instanceof Set) {
    const name = value instanceof Map ? "Map: Object.fromEntries" : "Set: Array.from";
    throw new TypeError(`JSON has no ${name} makes something of it that JSON has`);
  }
  return value;
}

/** A value as JSON. */
export function jsonText(value) {
  const text = JSON.stringify(value);
  // As which a Map would be lost. To look at each value takes several times as long as to write it.
  if (text?.includes("{}")) {
    JSON.stringify(value, checked);
  }
  if (text === undefined) {
    throw new TypeError(`a ${typeof value} cannot be JSON`);
  }
  return text;
}
