// Timers that end with their message: one that is left would run within the next.

import { needsCall } from "../phase.js";

const started = new Set();

for (const name of ["setTimeout", "setInterval"]) {
  const native = globalThis[name];
  globalThis[name] = (callback, ...values) => {
    needsCall("a timer");
    const id = native(callback, ...values);
    started.add(id);
    return id;
  };
}

export function endTimers() {
  for (const id of started) {
    clearTimeout(id);
  }
  started.clear();
}
