// Headers of `fetch`.

const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const NOT_IN_VALUES = /[\0\r\n]|[^\0-\xff]/;

function nameOf(name) {
  const text = String(name);
  if (!NAME.test(text)) {
    throw new TypeError(`${JSON.stringify(text)} is no name of a header`);
  }
  return text.toLowerCase();
}

function valueOf(value) {
  const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
  if (NOT_IN_VALUES.test(text)) {
    throw new TypeError(`${JSON.stringify(text)} is no value of a header`);
  }
  return text;
}

export class Headers {
  /** By name in lower case; each has its values. */
  #values = new Map();

  constructor(init = {}) {
    const entries = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
    for (const [name, value] of entries) {
      this.append(name, value);
    }
  }
  append(name, value) {
    const key = nameOf(name);
    this.#values.set(key, [...(this.#values.get(key) ?? []), valueOf(value)]);
  }
  set(name, value) {
    this.#values.set(nameOf(name), [valueOf(value)]);
  }
  get(name) {
    return this.#values.get(nameOf(name))?.join(", ") ?? null;
  }
  getSetCookie() {
    return [...(this.#values.get("set-cookie") ?? [])];
  }
  has(name) {
    return this.#values.has(nameOf(name));
  }
  delete(name) {
    this.#values.delete(nameOf(name));
  }
  forEach(callback, self) {
    for (const [name, value] of this) {
      callback.call(self, value, name, this);
    }
  }
  /** In the order of the names; each cookie to set is an entry of its own. */
  *entries() {
    for (const name of [...this.#values.keys()].sort()) {
      const values = this.#values.get(name);
      if (name === "set-cookie") {
        yield* values.map((value) => [name, value]);
      } else {
        yield [name, values.join(", ")];
      }
    }
  }
  *keys() {
    for (const [name] of this.entries()) {
      yield name;
    }
  }
  *values() {
    for (const [, value] of this.entries()) {
      yield value;
    }
  }
  [Symbol.iterator]() {
    return this.entries();
  }
}
