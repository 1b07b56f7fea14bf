// AbortController, as far as `fetch` and timers use it.

import { setTimeout } from "../loop.js";

/** An error with a name, such as `AbortError`. */
export class DOMException extends Error {
  #name;

  constructor(message = "", name = "Error") {
    super(message);
    this.#name = name;
  }
  get name() {
    return this.#name;
  }
}

const timedOut = () => new DOMException("The operation timed out.", "TimeoutError");
const aborted = () => new DOMException("This operation was aborted.", "AbortError");

/** What may make a signal and end it; nobody else has it. */
const OWN = Symbol("own");

export class AbortSignal {
  #listeners = new Set();
  #isAborted = false;
  #reason;
  onabort = null;

  constructor(own) {
    if (own !== OWN) {
      throw new TypeError("a signal is made by an AbortController, AbortSignal.timeout, any or abort");
    }
  }
  static abort(reason = aborted()) {
    const signal = new AbortSignal(OWN);
    signal[OWN](reason);
    return signal;
  }
  static timeout(ms) {
    const signal = new AbortSignal(OWN);
    setTimeout(() => signal[OWN](timedOut()), ms);
    return signal;
  }
  static any(signals) {
    const all = Array.from(signals);
    const signal = new AbortSignal(OWN);
    const first = all.find((one) => one.aborted);
    if (first !== undefined) {
      signal[OWN](first.reason);
      return signal;
    }
    for (const one of all) {
      one.addEventListener("abort", () => signal[OWN](one.reason));
    }
    return signal;
  }
  get aborted() {
    return this.#isAborted;
  }
  get reason() {
    return this.#reason;
  }
  throwIfAborted() {
    if (this.#isAborted) {
      throw this.#reason;
    }
  }
  addEventListener(type, listener) {
    if (type === "abort") {
      this.#listeners.add(listener);
    }
  }
  removeEventListener(_type, listener) {
    this.#listeners.delete(listener);
  }
  [OWN](reason) {
    if (this.#isAborted) {
      return;
    }
    this.#isAborted = true;
    this.#reason = reason;
    const event = { type: "abort", target: this };
    for (const listener of [this.onabort, ...this.#listeners]) {
      if (typeof listener === "function") {
        listener.call(this, event);
      } else {
        listener?.handleEvent(event);
      }
    }
    this.#listeners.clear();
  }
}

export class AbortController {
  #signal = new AbortSignal(OWN);

  get signal() {
    return this.#signal;
  }
  abort(reason = aborted()) {
    this.#signal[OWN](reason);
  }
}
