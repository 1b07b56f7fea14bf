// The cheapest ways that this engine has: base64 is native both ways, and so are percent-escapes.
export function decode(bytes, fatal = false) {
  const latin1 = atob(bytes.toBase64());
  if (!/[\x80-\xff]/.test(latin1)) return latin1;
  try {
    return decodeURIComponent(escape(latin1));
  } catch {
    if (fatal) throw new TypeError("not UTF-8");
    return lossy(bytes);
  }
}
export function encode(s) {
  s = s.toWellFormed();
  return Uint8Array.fromBase64(btoa(/[^\x00-\x7f]/.test(s) ? unescape(encodeURIComponent(s)) : s));
}
function lossy(b) {
  let out = "";
  for (let i = 0; i < b.length;) {
    const c = b[i];
    const n =
      c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
    let p = n === 0 ? c : c & (0x3f >> n),
      k = 0;
    if (n < 0) {
      out += "\ufffd";
      i++;
      continue;
    }
    for (; k < n; k++) {
      const d = b[i + 1 + k],
        low = k ? 0x80 : c === 0xe0 ? 0xa0 : c === 0xf0 ? 0x90 : 0x80,
        high = k ? 0xbf : c === 0xed ? 0x9f : c === 0xf4 ? 0x8f : 0xbf;
      if (!(d >= low && d <= high)) break;
      p = (p << 6) | (d & 0x3f);
    }
    out += k === n ? String.fromCodePoint(p) : "\ufffd";
    i += 1 + k;
  }
  return out;
}
