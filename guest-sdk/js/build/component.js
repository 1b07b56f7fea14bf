// Makes a component of a handler's source.

import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, resolve } from "node:path";

import { bundle } from "./bundle.js";
import { quickjs } from "./engines/quickjs.js";
import { withWorld } from "./world.js";
import { position } from "../runtime/where.js";

/** Builds a handler. Returns the component, and what is to be told of it. */
export async function build(source, { engine = quickjs, isQuick = false, ...options } = {}) {
  const bundled = await bundle(source, { engine, ...options });
  const { positions } = bundled;
  // What the runtime's `where` reads.
  const code = `${bundled.code}\nglobalThis.__meshage_map = ${JSON.stringify(positions)};\n`;
  const component = await withWorld(bundled, engine.withWasi, (wit) =>
    engine.componentize({ code, wit, source, isQuick, located: (text) => located(text, positions) }),
  );
  return { ...bundled, component };
}

/** A stack with the positions of the sources; what is the runtime's is left out. */
function located(text, positions) {
  const [first, ...frames] = text.trim().split("\n");
  const shown = frames.flatMap((frame) => {
    const [, before, line, column] = /^(.*\()?.*:(\d+):(\d+)\)?$/.exec(frame) ?? [];
    const place = before !== undefined && position(Number(line), Number(column), positions);
    return place ? [`    at ${place}`] : [];
  });
  return [first, ...shown].join("\n");
}

/** Where the component of a source goes, if nothing is said: the stream is called like the project's folder. */
export function outputOf(source, root = process.cwd()) {
  const name = basename(source, extname(source));
  const stream = name === "index" || name === "handler" ? basename(resolve(root)) : name;
  return resolve(root, "plugins", `${stream}.wasm`);
}

/** Writes a component by a rename, as a node may look at the folder. */
export function put(output, component) {
  mkdirSync(dirname(output), { recursive: true });
  const beside = `${output}.new`;
  writeFileSync(beside, component);
  renameSync(beside, output);
}
