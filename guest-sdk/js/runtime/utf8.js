// UTF-8, in the quickest ways that the engine has: base 64 is native both ways, and so are percent-escapes.

const NOT_ASCII = /[^\0-\x7f]/;

/** In a text of bytes: sequences that are UTF-8, or one that is not, as far as it is a beginning of one (as the Encoding
 * Standard replaces them). */
const SEQUENCES = new RegExp(
  "((?:[\\0-\\x7f]|[\\xc2-\\xdf][\\x80-\\xbf]|\\xe0[\\xa0-\\xbf][\\x80-\\xbf]|\\xed[\\x80-\\x9f][\\x80-\\xbf]" +
    "|[\\xe1-\\xec\\xee\\xef][\\x80-\\xbf]{2}|\\xf0[\\x90-\\xbf][\\x80-\\xbf]{2}|[\\xf1-\\xf3][\\x80-\\xbf]{3}" +
    "|\\xf4[\\x80-\\x8f][\\x80-\\xbf]{2})+)" +
    "|\\xe0[\\xa0-\\xbf]|\\xed[\\x80-\\x9f]|[\\xe1-\\xec\\xee\\xef][\\x80-\\xbf]|\\xf0[\\x90-\\xbf][\\x80-\\xbf]?" +
    "|[\\xf1-\\xf3][\\x80-\\xbf]{1,2}|\\xf4[\\x80-\\x8f][\\x80-\\xbf]?|[^]",
  "g",
);

/** Bytes as text. What is not UTF-8 is replaced, or an error if it `isFatal`. */
export function decode(bytes, isFatal = false) {
  const text = atob(bytes.toBase64());
  if (!NOT_ASCII.test(text)) {
    return text;
  }
  try {
    return decodeURIComponent(escape(text));
  } catch {
    if (isFatal) {
      throw new TypeError("not UTF-8");
    }
    return text.replace(SEQUENCES, (_, good) =>
      good === undefined ? "\ufffd" : decodeURIComponent(escape(good)),
    );
  }
}

/** Text as bytes. */
export function encode(text) {
  const whole = text.toWellFormed();
  return Uint8Array.fromBase64(btoa(NOT_ASCII.test(whole) ? unescape(encodeURIComponent(whole)) : whole));
}
