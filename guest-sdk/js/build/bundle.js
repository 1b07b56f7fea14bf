// Bundles a handler, its packages and the runtime into one module for the engine.

import { existsSync, readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

import { segments, table } from "./source-map.js";
import { kindOf, usesOf } from "./uses.js";

const RUNTIME = fileURLToPath(new URL("../runtime/", import.meta.url));
const SDK = fileURLToPath(new URL("../index.js", import.meta.url));

const CAPABILITIES = { state: "stateful.js", calls: "stateless.js" };

/** What the engine has no loop for: `async` becomes generators, which run on a Promise of the runtime. */
const LOWERED = { "async-await": false, "async-generator": false, "for-await": false, decorators: false };

/** What packages look up as members is put in as a global, too. */
const DEFINED = {
  "process.env.NODE_ENV": '"production"',
  ...Object.fromEntries(
    ["globalThis", "self", "window"].flatMap((global) =>
      ["fetch", "Headers", "Request", "Response"].map((name) => [`${global}.${name}`, name]),
    ),
  ),
};

/** A mistake in the handler. */
export class BundleError extends Error {}

/** Bundles the source. Returns its code, the table of positions, what it uses, and its files. */
export async function bundle(source, { root = process.cwd(), minify = false, uses } = {}) {
  const found = [];
  const first = await run(source, { root, kind: uses ?? "state", minify: false, found });
  const kind = uses ?? kindOf(found);
  const last = kind === "state" && !minify ? first : await run(source, { root, kind, minify, found: [] });
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
  return imports.flatMap((path) => /^meshage:mesh\/(.*)@/.exec(path)?.[1] ?? []);
}

async function run(source, { root, kind, minify, found }) {
  try {
    return await esbuild.build({
      stdin: { contents: entry(source, root, kind), resolveDir: root, sourcefile: "meshage:entry.js" },
      absWorkingDir: root,
      outdir: root,
      bundle: true,
      write: false,
      format: "esm",
      target: "esnext",
      platform: "neutral",
      mainFields: ["browser", "module", "main"],
      conditions: ["worker", "browser", "module", "import"],
      define: DEFINED,
      supported: LOWERED,
      inject: [`${RUNTIME}web/inject.js`],
      alias: { meshage: SDK },
      plugins: [hostImports, webUrl, scan(root, found)],
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
    throw new BundleError(`${source} could not be built\n\n${texts.join("").trimEnd()}`);
  }
}

function entry(source, root, kind) {
  const own = JSON.stringify(resolve(root, source));
  const capabilities = CAPABILITIES[kind];
  const runtime = (file) => JSON.stringify(RUNTIME + file);
  return `import ${runtime("globals.js")};
import { serve } from ${runtime("serve.js")};
${capabilities === undefined ? "const capabilities = undefined;" : `import { capabilities } from ${runtime(capabilities)};`}
import * as handler from ${own};
export const messageHandler = serve(Reflect.get(handler, "default"), capabilities);
`;
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
    build.onResolve({ filter: /^\.\/(url|clone|abort|body|fetch)\.js$/ }, ({ path, importer }) =>
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
