// QuickJS: small, and quick to build. It has no loop and few of the web's APIs, which the runtime brings along.

import { SourceError } from "../source-error.js";

/** What packages look up as members is put in as a global, too. */
const MEMBERS = ["globalThis", "self", "window"].flatMap((global) =>
  ["fetch", "Headers", "Request", "Response"].map((name) => [`${global}.${name}`, name]),
);

export const quickjs = {
  /** For esbuild: `async` becomes generators, which run on a Promise of the runtime. */
  options: (runtime) => ({
    supported: { "async-await": false, "async-generator": false, "for-await": false, decorators: false },
    inject: [`${runtime}web/inject.js`],
    define: Object.fromEntries(MEMBERS),
  }),
  /** Whether the runtime imports of WASI what the engine lacks. */
  withWasi: true,
  /** Files of the runtime that stand for others. */
  replaced: {},
  /** What the bundle begins with, and what makes a component's export of a handler. */
  globals: "globals.js",
  serve: "serve.js",

  /** Makes the component of a bundle. `located` makes positions in the bundle those in the source. */
  async componentize({ code, wit, source, isQuick, located }) {
    const { componentize } = await import("componentize-qjs");
    try {
      const { component } = await componentize({
        witPath: wit,
        world: "built",
        jsSource: code,
        sync: true,
        // The smaller engine is built in half the time, and a fifth slower.
        optSize: isQuick,
      });
      return component;
    } catch (error) {
      const text = String(error.message ?? error);
      const thrown = /JavaScript module(?: evaluation)?: ([\s\S]*)/.exec(text)?.[1];
      if (thrown === undefined) {
        throw error;
      }
      throw new SourceError(
        `${source} failed while it was loaded, which happens when it is built: ${located(thrown)}`,
      );
    }
  },
};
