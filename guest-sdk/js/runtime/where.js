// Positions in the bundle to positions in the sources, by the table that `build/source-map.js` has put at the end of
// the bundle: `starts` has line and column of the first segment of each block, `blocks` their segments, `sources`
// the names.

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** `source:line:column` of a position in the bundle, both counted from 1; nothing if it is of no source. */
export function position(line, column, table = globalThis.__meshage_map) {
  const block = table && blockOf(table.starts, line, column);
  if (block === undefined) {
    return undefined;
  }
  const [foundLine, , source, sourceLine, sourceColumn] = lastBefore(block, table.blocks, line, column);
  if (foundLine !== line || source === 0) {
    return undefined;
  }
  const name = table.sources[source - 1];
  return sourceLine === 0 ? name : `${name}:${sourceLine}:${sourceColumn}`;
}

/** The number of the last block that begins at or before a position. */
function blockOf(starts, line, column) {
  let low = 0;
  let high = starts.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    const [startLine, startColumn] = [starts[2 * middle], starts[2 * middle + 1]];
    if (startLine < line || (startLine === line && startColumn <= column)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low === 0 ? undefined : low - 1;
}

/** The last segment of a block that begins at or before a position. */
function lastBefore(block, blocks, line, column) {
  const text = blocks[block];
  const segment = [0, 0, 0, 0, 0];
  let found = segment;
  let at = 0;
  const next = () => {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = DIGITS.indexOf(text[at++]);
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    return value & 1 ? -(value >>> 1) : value >>> 1;
  };
  while (at < text.length) {
    const lines = next();
    if (lines !== 0) {
      // Columns start anew in each line.
      segment[1] = 0;
    }
    segment[0] += lines;
    for (let field = 1; field < segment.length; field++) {
      segment[field] += next();
    }
    if (segment[0] > line || (segment[0] === line && segment[1] > column)) {
      break;
    }
    found = [...segment];
  }
  return found;
}

/** Lines of a stack, as QuickJS and as StarlingMonkey has them. */
const FRAMES = [/^\s*at (?:(.*?) \()?.*:(\d+):(\d+)\)?$/, /^(?:([^@]*)@)?.*:(\d+):(\d+)$/];

/** A line of a stack as `function (source:line:column)`, or nothing if it is the runtime's or the engine's. */
export function locate(frame) {
  const [, name, line, column] = FRAMES.map((pattern) => pattern.exec(frame)).find((found) => found) ?? [];
  const place = line !== undefined && position(Number(line), Number(column));
  if (!place) {
    return undefined;
  }
  return !name || name === "<anonymous>" ? place : `${name} (${place})`;
}
