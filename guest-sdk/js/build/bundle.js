// Bundles a handler, its packages and the runtime into one module for the engine.

import { existsSync, readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

import { quickjs } from "./engines/quickjs.js";
import { segments, table } from "./source-map.js";
import { SourceError } from "./source-error.js";
import { kindOf, usesOf } from "./uses.js";

const RUNTIME = fileURLToPath(new URL("../runtime/", import.meta.url));
const SDK = fileURLToPath(new URL("../index.js", import.meta.url));

const CAPABILITIES = { state: "stateful.js", calls: "stateless.js" };

/** Bundles the source for an engine, into a module or into a script that sets a global. Returns its code, the table of positions,
 * what it uses, and its files. `uses` is `state`, `calls` or `nothing` if it is not to be found out, or `http`. */
export async function bundle(
  source,
  { engine = quickjs, root = process.cwd(), minify = false, uses, global } = {},
) {
  const found = [];
  const options = { engine, root, global };
  const first = await run(source, { ...options, kind: uses ?? "state", minify: false, found });
  const kind = uses ?? kindOf(found);
  const isLast = kind === (uses ?? "state") && !minify;
  const last = isLast ? first : await run(source, { ...options, kind, minify, found: [] });
  const output = (end) => last.outputFiles.find((file) => file.path.endsWith(end)).text;
  const map = JSON.parse(output(".map"));
  const texts = new Map();
  const linesOf = (name) => texts.get(name) ?? texts.set(name, lines(name, root)).get(name);
  const positions = table(map, (name) => sourceName(name, root), linesOf);
  const imports = importsOf(last.metafile);
  return {
    code: output(".js"),
    positions,
    kind,
    imports,
    uses: found,
    files: Object.keys(first.metafile.inputs),
  };
}

/** The interfaces of the mesh that a bundle imports. */
function importsOf({ outputs }) {
  const imports = Object.values(outputs).flatMap((output) => output.imports.map(({ path }) => path));
  return [...new Set(imports.flatMap((path) => /^meshage:mesh\/(.*)@/.exec(path)?.[1] ?? []))];
}

async function run(source, { engine, root, kind, minify, global, found }) {
  const { inject = [], define, supported } = engine.options(RUNTIME);
  try {
    return await esbuild.build({
      stdin: {
        contents: entry(source, { engine, root, kind, global }),
        resolveDir: root,
        sourcefile: "meshage:entry.js",
      },
      absWorkingDir: root,
      outdir: root,
      bundle: true,
      write: false,
      format: global === undefined ? "esm" : "iife",
      globalName: global,
      target: "esnext",
      platform: "neutral",
      mainFields: ["browser", "module", "main"],
      conditions: ["worker", "browser", "module", "import"],
      define: { "process.env.NODE_ENV": '"production"', ...define },
      supported,
      inject,
      alias: { meshage: SDK },
      plugins: [replace(engine.replaced), hostImports, webUrl, scan(root, found)],
      sourcemap: "external",
      sourcesContent: false,
      minify,
      keepNames: minify,
      legalComments: "none",
      metafile: true,
      logLevel: "silent",
    });
  } catch (error) {
    if (!Array.isArray(error.errors)) {
      throw error;
    }
    // Its notes speak of options of esbuild.
    const plain = error.errors.map((one) => ({ ...one, notes: [] }));
    const texts = await esbuild.formatMessages(plain, { kind: "error" });
    throw new SourceError(`${source} could not be built\n\n${texts.join("").trimEnd()}`);
  }
}

function entry(source, { engine, root, kind, global }) {
  const runtime = (file) => JSON.stringify(RUNTIME + file);
  const own = `import * as handler from ${JSON.stringify(resolve(root, source))};`;
  if (kind === "http") {
    return `import { listen } from ${runtime("starlingmonkey/http.js")};
${own}
listen(Reflect.get(handler, "default"));
`;
  }
  const capabilities = CAPABILITIES[kind];
  return `${global === undefined ? "" : `import ${runtime("older.js")};`}
import ${runtime(engine.globals)};
import { serve } from ${runtime(engine.serve)};
${capabilities === undefined ? "const capabilities = undefined;" : `import { capabilities } from ${runtime(capabilities)};`}
${own}
export const messageHandler = serve(Reflect.get(handler, "default"), capabilities);
`;
}

/** Files of the runtime that stand for what its other files import. */
function replace(replaced) {
  const targets = Object.values(replaced).map((file) => RUNTIME + file);
  return {
    name: "replaced",
    setup(build) {
      build.onResolve({ filter: /./ }, ({ path, importer }) => {
        const file =
          importer.startsWith(RUNTIME) && !targets.includes(importer) && replaced[path.replace("../", "./")];
        return file ? { path: RUNTIME + file } : undefined;
      });
    },
  };
}

/** The interfaces of the host are there from the beginning, or not at all. */
const hostImports = {
  name: "host",
  setup(build) {
    const versions = { meshage: "0.1.0", wasi: "0.2.0" };
    build.onResolve({ filter: /^(meshage|wasi):[a-z]+\/[a-z-]+$/ }, ({ path, kind }) => {
      if (kind === "dynamic-import") {
        return {
          errors: [{ text: `${path} cannot be imported while a handler runs: import it at the top` }],
        };
      }
      return { path: `${path}@${versions[path.split(":")[0]]}`, external: true };
    });
    build.onResolve({ filter: /^node:/ }, ({ path }) => ({
      errors: [{ text: `${path} is of Node.js: a component has neither files nor sockets nor processes` }],
    }));
    // They have an effect, but only where they are used.
    build.onResolve({ filter: /^\.\/(url|clone|abort|headers|body|fetch)\.js$/ }, ({ path, importer }) =>
      importer.startsWith(`${RUNTIME}web/`)
        ? { path: `${RUNTIME}web/${path}`, sideEffects: false }
        : undefined,
    );
  },
};

/** URL of core-js, in one file in which no global of its own is a free name: else it would be given itself. */
const webUrl = {
  name: "url",
  setup(build) {
    build.onResolve({ filter: /^meshage:url$/ }, ({ path }) => ({ path, namespace: "url" }));
    build.onLoad({ filter: /.*/, namespace: "url" }, async () => {
      const made = await esbuild.build({
        stdin: { contents: 'import "core-js/web/url";', resolveDir: RUNTIME },
        bundle: true,
        write: false,
        format: "iife",
        platform: "neutral",
        mainFields: ["main"],
        define: Object.fromEntries(
          ["URL", "URLSearchParams", "structuredClone"].map((name) => [name, `globalThis.${name}`]),
        ),
      });
      return { contents: made.outputFiles[0].text };
    });
  },
};

/** Looks in the project's own modules for what they use of the context. */
function scan(root, found) {
  return {
    name: "uses",
    setup(build) {
      build.onLoad({ filter: /\.[cm]?[jt]sx?$/ }, async ({ path }) => {
        if (path.includes("node_modules") || path.startsWith(dirname(SDK))) {
          return undefined;
        }
        const loader = path.match(/\.[cm]?([jt]sx?)$/)[1];
        const text = readFileSync(path, "utf8");
        try {
          const { code, map } = await esbuild.transform(text, {
            loader,
            sourcemap: true,
            logLevel: "silent",
          });
          for (const use of usesOf(code)) {
            found.push({ ...use, file: relative(root, path), line: lineBefore(map, use.line) });
          }
        } catch {
          // What is wrong with it is said when it is bundled.
        }
        return { contents: text, loader };
      });
    },
  };
}

/** The line of a source, of a line of what was made of it. */
function lineBefore(map, line) {
  for (const [at, , source, sourceLine] of segments(JSON.parse(map))) {
    if (at === line && source !== 0) {
      return sourceLine;
    }
  }
  return line;
}

/** How a source is called in positions; nothing for those of the runtime. */
function sourceName(source, root) {
  if (source.includes("meshage:")) {
    return undefined;
  }
  const path = resolve(root, source);
  return path.startsWith(RUNTIME) ? undefined : relative(root, path);
}

function lines(source, root) {
  const path = resolve(root, source);
  return existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
}
