// Makes a component of a handler's source.

import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, resolve } from "node:path";

import { BundleError, bundle } from "./bundle.js";
import { withWorld } from "./world.js";
import { position } from "../runtime/where.js";

/** Builds a handler. Returns the component, and what is to be told of it. */
export async function build(source, options = {}) {
  const bundled = await bundle(source, options);
  // What the runtime's `where` reads.
  const code = `${bundled.code}\nglobalThis.__meshage_map = ${JSON.stringify(bundled.positions)};\n`;
  const component = await withWorld(bundled.imports, (wit) =>
    componentize(code, bundled.positions, wit, source, options),
  );
  return { ...bundled, component };
}

async function componentize(code, positions, wit, source, { isQuick = false }) {
  const { componentize } = await import("componentize-qjs");
  try {
    const made = await componentize({
      witPath: wit,
      world: "built",
      jsSource: code,
      sync: true,
      // The smaller engine is built in half the time, and a fifth slower.
      optSize: isQuick,
    });
    return made.component;
  } catch (error) {
    const text = String(error.message ?? error);
    const thrown = /JavaScript module(?: evaluation)?: ([\s\S]*)/.exec(text)?.[1];
    if (thrown === undefined) {
      throw error;
    }
    throw new BundleError(
      `${source} failed while it was loaded, which happens when it is built: ${located(thrown, positions)}`,
    );
  }
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
