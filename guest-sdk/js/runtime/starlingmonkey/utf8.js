// UTF-8, by what the engine has.

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

/** Bytes as text. What is not UTF-8 is replaced, or an error if it `isFatal`. */
export const decode = (bytes, isFatal = false) => (isFatal ? strict : lenient).decode(bytes);

/** Text as bytes. */
export const encode = (text) => encoder.encode(text);
