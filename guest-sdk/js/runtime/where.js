// Positions in the bundle to positions in the sources. The build (sourcemap.mjs) puts a table at the end of the bundle:
// `starts` has line and column of the first segment of each block, `blocks` their segments, `sources` the names.
// Only the block that is asked for is decoded.
const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** `source:line:column` of a position in the bundle, both counted from 1. */
export function position(line, column, map = globalThis.__meshage_map) {
  if (!map) return;
  const { starts, blocks, sources } = map;
  let low = 0,
    high = blocks.length;
  while (low < high) {
    const mid = (low + high) >> 1,
      l = starts[2 * mid];
    l < line || (l === line && starts[2 * mid + 1] <= column) ? (low = mid + 1) : (high = mid);
  }
  if (low === 0) return;
  const text = blocks[low - 1];
  let at = 0,
    found,
    s = [0, 0, 0, 0, 0]; // line and column in the bundle; source, line and column there
  for (let i = 0; i < text.length;) {
    for (let f = 0; f < 5; f++) {
      let v = 0,
        shift = 0,
        d;
      do {
        d = digits.indexOf(text[i++]);
        v |= (d & 31) << shift;
        shift += 5;
      } while (d & 32);
      const n = v & 1 ? -(v >>> 1) : v >>> 1;
      if (f === 0 && n !== 0) s[1] = 0; // columns start anew in each line
      s[f] += n;
    }
    if (s[0] > line || (s[0] === line && s[1] > column)) break;
    found = s.slice();
  }
  if (!found || found[0] !== line || found[2] === 0) return;
  return found[3] === 0 ? sources[found[2] - 1] : `${sources[found[2] - 1]}:${found[3]}:${found[4]}`;
}

/** A line of a stack as `function (file:line:column)`, or nothing if it is the runtime's or the engine's. */
export function locate(frame) {
  const m =
    /^\s*at (?:(.*?) \()?(?:.*):(\d+):(\d+)\)?$/.exec(frame) ??
    /^(?:async\*)?(.*?)@.*:(\d+):(\d+)$/.exec(frame); // QuickJS, SpiderMonkey
  const p = m && position(+m[2], +m[3]);
  if (!p) return;
  return m[1] && m[1] !== "<anonymous>" ? `${m[1]} (${p})` : p;
}

/** Where an error comes from: its first frame that is not the runtime's. */
export function where(e) {
  for (const frame of String(e?.stack ?? "").split("\n")) {
    const l = locate(frame);
    if (l) return /\((.*)\)$/.exec(l)?.[1] ?? l;
  }
}
