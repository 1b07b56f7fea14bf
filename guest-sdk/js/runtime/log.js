import { log as host } from "meshage:mesh/logging";
import { running } from "./phase.js";
let early = [];
/** Writes to the node's log; what is written while the module is loaded comes with the first message of an instance. */
export function log(level, text) {
  text = String(text).toWellFormed(); // the engine traps on a lone surrogate
  if (running) host(level, text);
  else if (early.length < 100) early.push([level, text]);
}
export function flush() {
  if (early.length > 0) for (const [level, text] of early.splice(0)) host(level, text);
}
