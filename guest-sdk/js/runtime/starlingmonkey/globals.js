// The engine's console writes lines to stdout; the node's log has levels.

import { log } from "../log.js";
import { show } from "../show.js";

const LEVELS = { trace: "trace", debug: "debug", log: "info", info: "info", warn: "warn", error: "error" };

for (const [name, level] of Object.entries(LEVELS)) {
  console[name] = (...values) => log(level, values.map(show).join(" "));
}
