// The table of positions that goes into a component: what `runtime/where.js` reads. It is a source map of which
// only a block has to be decoded for a position, and without what nobody wants to see.

import { decode } from "@jridgewell/sourcemap-codec";

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Segments of a block. */
const BLOCK = 64;

/** The segments of a source map: line and column in the bundle, and in which source, line and column that is; all are
 * counted from 1, and 0 stands for none. */
export function* segments({ mappings }) {
  for (const [line, row] of decode(mappings).entries()) {
    for (const [column, source, sourceLine, sourceColumn] of row) {
      yield source === undefined
        ? [line + 1, column + 1, 0, 0, 0]
        : [line + 1, column + 1, source + 1, sourceLine + 1, sourceColumn + 1];
    }
  }
}

/** Makes the table. `nameOf` says how a source is called, or nothing if it is not to be shown; `linesOf` gives its
 * lines. */
export function table(map, nameOf, linesOf) {
  const sources = [];
  const starts = [];
  const blocks = [];
  let inBlock = BLOCK;
  let before;
  for (const segment of shown(map, nameOf, linesOf, sources)) {
    if (inBlock === BLOCK) {
      starts.push(segment[0], segment[1]);
      blocks.push("");
      inBlock = 0;
      before = [0, 0, 0, 0, 0];
    }
    if (segment[0] !== before[0]) {
      // Columns start anew in each line.
      before[1] = 0;
    }
    blocks[blocks.length - 1] += segment.map((value, field) => written(value - before[field])).join("");
    before = [...segment];
    inBlock++;
  }
  return { sources, starts, blocks };
}

/** The segments that are worth keeping, with the numbers of their names in `sources`. */
function* shown(map, nameOf, linesOf, sources) {
  const numbers = new Map();
  let last;
  for (const [line, column, source, sourceLine, sourceColumn] of segments(map)) {
    const file = source === 0 ? undefined : map.sources[source - 1];
    const name = file === undefined ? undefined : nameOf(file);
    if (name === undefined) {
      if (last !== undefined) {
        yield [line, column, 0, 0, 0];
      }
      last = undefined;
      continue;
    }
    // The engine's position of `new X()` is that of `X`; others' is that of `new`.
    if (/\bnew\s+$/.test(linesOf(file)[sourceLine - 1]?.slice(0, sourceColumn - 1) ?? "")) {
      continue;
    }
    if (!numbers.has(name)) {
      numbers.set(name, sources.push(name));
    }
    const number = numbers.get(name);
    if (!name.includes("node_modules/")) {
      yield [line, column, number, sourceLine, sourceColumn];
    } else if (last !== name) {
      // Of packages the file is enough.
      yield [line, column, number, 0, 0];
    }
    last = name;
  }
}

/** A number as source maps have it: base 64, five bits a digit, the lowest first and its lowest bit the sign. */
function written(number) {
  let rest = number < 0 ? (-number << 1) | 1 : number << 1;
  let text = "";
  do {
    const digit = rest & 31;
    rest >>>= 5;
    text += DIGITS[rest > 0 ? digit | 32 : digit];
  } while (rest > 0);
  return text;
}
