// Values as the log shows them.

import { locate } from "./where.js";

export function show(value) {
  if (typeof value === "string") {
    return value;
  }
  if (Error.isError(value)) {
    return error(value);
  }
  if (typeof value === "object" && value !== null) {
    return object(value);
  }
  return typeof value === "bigint" ? `${value}n` : String(value);
}

/** An error with where it comes from. */
function error(value, around = []) {
  const frames = String(value.stack ?? "")
    .split("\n")
    .map(locate);
  const places = frames.filter((place) => place !== undefined).map((place) => `\n    at ${place}`);
  const inner = [...around, value];
  const nested = (one) =>
    inner.includes(one) ? "itself" : Error.isError(one) ? error(one, inner) : show(one);
  const causes = value.cause === undefined ? [] : [`\ncaused by ${nested(value.cause)}`];
  const all = Array.isArray(value.errors) ? value.errors.map((one) => `\none of them: ${nested(one)}`) : [];
  return `${value}${places.join("")}${[...causes, ...all].join("")}`;
}

function object(value) {
  const around = [];
  try {
    const text = JSON.stringify(value, function (_, member) {
      while (around.length > 0 && around.at(-1) !== this) {
        around.pop();
      }
      if (typeof member === "object" && member !== null) {
        if (around.includes(member)) {
          return "[circular]";
        }
        around.push(member);
      }
      return plain(member);
    });
    return text ?? String(value);
  } catch {
    return String(value);
  }
}

/** What JSON has no word for. */
function plain(member) {
  if (typeof member === "bigint") {
    return `${member}n`;
  }
  if (typeof member === "function") {
    return `[function ${member.name}]`;
  }
  if (member instanceof Map) {
    return Object.fromEntries(member);
  }
  if (member instanceof Set) {
    return [...member];
  }
  if (ArrayBuffer.isView(member) && !(member instanceof DataView)) {
    return [...member].join(" ");
  }
  return Error.isError(member) ? String(member) : member;
}
