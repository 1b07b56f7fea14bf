// The node's log.

import { log as host } from "meshage:mesh/logging";

import { running } from "./phase.js";

/** Entries that are kept while the component is built. */
const EARLY_MAX = 100;

const early = [];

/** Writes an entry. What is written while the component is built comes with the first message of an instance. */
export function log(level, text) {
  // The engine traps on a lone surrogate.
  const whole = String(text).toWellFormed();
  if (running) {
    host(level, whole);
  } else if (early.length < EARLY_MAX) {
    early.push([level, whole]);
  }
}

/** Writes what was kept. */
export function flush() {
  if (early.length > 0) {
    for (const [level, text] of early.splice(0)) {
      host(level, text);
    }
  }
}
