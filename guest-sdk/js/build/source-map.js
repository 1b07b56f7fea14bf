const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const enc = (n) => {
  let v = n < 0 ? (-n << 1) | 1 : n << 1,
    o = "";
  do {
    let d = v & 31;
    v >>>= 5;
    if (v) d |= 32;
    o += digits[d];
  } while (v);
  return o;
};
/** `mappings` of a source map v3 as [line, column, source, line, column], all from 1 but `source`, 0 for none. */
export function* segments(mappings) {
  let source = 0,
    line = 0,
    column = 0,
    gen = 0;
  for (const l of mappings.split(";")) {
    gen++;
    let at = 0;
    if (l !== "")
      for (const seg of l.split(",")) {
        const n = [];
        let v = 0,
          shift = 0;
        for (const c of seg) {
          const d = digits.indexOf(c);
          v |= (d & 31) << shift;
          if (d & 32) shift += 5;
          else {
            n.push(v & 1 ? -(v >>> 1) : v >>> 1);
            v = shift = 0;
          }
        }
        at += n[0];
        if (n.length > 1) {
          source += n[1];
          line += n[2];
          column += n[3];
        }
        yield n.length > 1 ? [gen, at + 1, source + 1, line + 1, column + 1] : [gen, at + 1, 0, 0, 0];
      }
  }
}
/** The table that runtime/where.js reads. `name` gives a source's name, or nothing for one that is not to be shown; `text` its lines. */
export function table(map, name, text, per = 64) {
  const sources = [],
    ids = new Map(),
    out = { sources, starts: [], blocks: [] };
  let block = "",
    count = 0,
    last,
    hidden = false,
    shown = 0;
  for (const s of segments(map.mappings)) {
    // The engine's position of `new X()` is that of `X`; others' is that of `new`.
    if (
      s[2] &&
      text(map.sources[s[2] - 1])
        [s[3] - 1]?.slice(0, s[4] - 1)
        .match(/\bnew\s+$/)
    )
      continue;
    if (s[2] && name(map.sources[s[2] - 1])?.includes("node_modules/")) {
      // of dependencies only the file
      if (shown === s[2]) continue;
      shown = s[2];
      s[3] = s[4] = 0;
    } else shown = 0;
    const n = s[2] && name(map.sources[s[2] - 1]);
    if (n) {
      if (!ids.has(n)) ids.set(n, sources.push(n));
      s[2] = ids.get(n);
      hidden = false;
    } else {
      if (hidden) continue;
      s[2] = s[3] = s[4] = 0;
      hidden = true;
    }
    if (count === 0) {
      last = [0, 0, 0, 0, 0];
      out.starts.push(s[0], s[1]);
    }
    if (s[0] !== last[0]) last[1] = 0;
    block += s.map((v, i) => enc(v - last[i])).join("");
    last = s;
    if (++count === per) {
      out.blocks.push(block);
      block = "";
      count = 0;
    }
  }
  if (count) out.blocks.push(block);
  return out;
}
