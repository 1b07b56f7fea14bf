// JSON of bodies: what was sent, or refused.

import { Invalid } from "./failures.js";
import { decode } from "./utf8.js";

/** Levels of arrays and objects. More would overflow the engine's stack. */
const LEVELS_MAX = 127;

/** Texts without this have no number that could be read as another. */
const INEXACT = /\d(?:\d{15}|[eE])/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(\.\d+)?([eE][+-]?\d+)?|[[\]{}]/g;

/** Reads a body. What it is called goes into the texts of failures. */
export function parse(body, what = "the body") {
  let text;
  try {
    text = decode(body, true);
  } catch {
    throw new Invalid(`${what} is not JSON: it is not UTF-8`);
  }
  if (text.charCodeAt(0) === 0xfeff) {
    text = text.slice(1);
  }
  if (text.length > LEVELS_MAX && isDeep(text)) {
    checkDepth(text, what);
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Invalid(`${what} is not JSON: ${error.message}`);
  }
  if (INEXACT.test(text)) {
    checkNumbers(text, what);
  }
  return value;
}

/** Whether there are more brackets than the deepest text that is allowed has. */
function isDeep(text) {
  return count(text, "[") + count(text, "{") > LEVELS_MAX;
}

function count(text, bracket) {
  let brackets = 0;
  for (
    let at = text.indexOf(bracket);
    at >= 0 && brackets <= LEVELS_MAX;
    at = text.indexOf(bracket, at + 1)
  ) {
    brackets++;
  }
  return brackets;
}

function checkDepth(text, what) {
  let level = 0;
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === "[" || token === "{") {
      if (++level > LEVELS_MAX) {
        throw new Invalid(`${what} is nested too deeply: at most ${LEVELS_MAX} levels of arrays and objects`);
      }
    } else if (token === "]" || token === "}") {
      level--;
    }
  }
}

/** Refuses numbers that would be read as others. */
function checkNumbers(text, what) {
  for (const [token, fraction, exponent] of text.matchAll(TOKENS)) {
    if (token.length < 3 || !/^-?\d/.test(token)) {
      continue;
    }
    const value = Number(token);
    if (!Number.isFinite(value)) {
      throw new Invalid(`${what} has the number ${token}, which is out of range`);
    }
    // What is written as it was sent is what was sent.
    const isInteger = fraction === undefined && exponent === undefined;
    if (isInteger && !Number.isSafeInteger(value) && String(value) !== token) {
      throw new Invalid(
        `${what} has the integer ${token}, which JavaScript cannot hold: send it as a string`,
      );
    }
  }
}
