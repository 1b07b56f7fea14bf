// StarlingMonkey: SpiderMonkey with all of the web's APIs; ten times as large, and ten times as long to build. Its package
// is none of the dependencies, as it takes 190 MB: who wants it installs it.

import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { SourceError } from "../source-error.js";

const PACKAGE = "@bytecodealliance/componentize-js";
const VERSION = "0.23.0";

const engine = (features) => ({
  options: () => ({ supported: { decorators: false, using: false } }),
  withWasi: false,
  replaced: {
    "./utf8.js": "starlingmonkey/utf8.js",
    "meshage:mesh/messages": "starlingmonkey/messages.js",
  },
  globals: "starlingmonkey/globals.js",
  serve: "starlingmonkey/serve.js",

  async componentize({ code, wit, source, located }) {
    const { componentize } = await installed(source);
    const file = join(wit, "bundle.js");
    writeFileSync(file, code);
    const disableFeatures = ["stdio", "random", "clocks", "http", "fetch-event"].filter(
      (feature) => !features.includes(feature),
    );
    // It prints what a module throws while it is loaded, and ends with an error that does not say it.
    try {
      const { component } = await componentize({
        sourcePath: file,
        witPath: wit,
        worldName: "built",
        disableFeatures,
      });
      return component;
    } catch (error) {
      throw new SourceError(
        `${source} could not be built by StarlingMonkey, most likely as it failed while it was loaded, which happens when it is ` +
          `built: ${located(String(error.message ?? error))}`,
      );
    } finally {
      rmSync(file);
    }
  },
});

/** For handlers of messages. */
export const starlingMonkey = engine(["stdio", "random", "clocks", "http"]);

/** For handlers of `wasi:http`. */
export const starlingMonkeyHttp = engine(["stdio", "random", "clocks", "http", "fetch-event"]);

/** The package, of the project or beside the SDK. */
async function installed(source) {
  for (const from of [
    dirname(resolve(source)),
    process.cwd(),
    fileURLToPath(new URL(".", import.meta.url)),
  ]) {
    for (let folder = from; folder !== dirname(folder); folder = dirname(folder)) {
      const found = join(folder, "node_modules", PACKAGE);
      if (
        existsSync(found) &&
        JSON.parse(readFileSync(join(found, "package.json"), "utf8")).version === VERSION
      ) {
        return import(pathToFileURL(join(found, "src/componentize.js")));
      }
    }
  }
  throw new SourceError(
    `StarlingMonkey needs a package that is not there: npm install --save-dev --save-exact ${PACKAGE}@${VERSION}`,
  );
}
