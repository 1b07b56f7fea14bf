// TextEncoder and TextDecoder, for UTF-8.

import { decode, encode } from "./utf8.js";

const LABELS = /^\s*(utf-?8|unicode-1-1-utf-8)\s*$/i;
const MARK = "\ufeff";

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(text = "") {
    return encode(String(text));
  }
}

export class TextDecoder {
  #isFatal;
  #keepsMark;

  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!LABELS.test(label)) {
      throw new RangeError(`TextDecoder: only UTF-8, not ${label}`);
    }
    this.#isFatal = fatal;
    this.#keepsMark = ignoreBOM;
  }
  get encoding() {
    return "utf-8";
  }
  decode(source = new Uint8Array()) {
    const bytes = ArrayBuffer.isView(source)
      ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
      : new Uint8Array(source);
    const text = decode(bytes, this.#isFatal);
    return !this.#keepsMark && text.startsWith(MARK) ? text.slice(1) : text;
  }
}
