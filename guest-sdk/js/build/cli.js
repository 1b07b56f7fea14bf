#!/usr/bin/env node
// The command `meshage-js`.

import { existsSync } from "node:fs";
import { relative } from "node:path";
import { parseArgs } from "node:util";

import { position } from "../runtime/where.js";
import { bundle } from "./bundle.js";
import { build, outputOf, put } from "./component.js";
import { dev } from "./dev.js";
import { quickjs } from "./engines/quickjs.js";
import { starlingMonkey, starlingMonkeyHttp } from "./engines/starlingmonkey.js";
import { SourceError } from "./source-error.js";

const USAGE = `usage: meshage-js build [SOURCE] [--out FILE] [--minify] [--uses state|calls|nothing]
                        [--engine quickjs|starlingmonkey] [--http]
       meshage-js dev   [SOURCE] [--out FILE] [--uses …] [--engine …] [--http] [-- FLAGS OF meshage-host]
       meshage-js where SOURCE LINE:COLUMN …

build   makes a component of a handler: SOURCE (src/index.ts or src/index.js) becomes plugins/FOLDER.wasm, whose name is the stream
dev     builds on each saving, and runs a node with the component and its log
where   says where in the sources positions of the bundle are, as an engine's own errors name them

StarlingMonkey has all of the web's APIs, and makes 12 MB in some 20 s; it needs @bytecodealliance/componentize-js. With --http the
handler answers requests of wasi:http: (request) => new Response(…).
`;

const SOURCES = ["src/index.ts", "src/index.js", "index.ts", "index.js"];

const OPTIONS = {
  out: { type: "string" },
  minify: { type: "boolean" },
  uses: { type: "string" },
  engine: { type: "string" },
  http: { type: "boolean" },
  help: { type: "boolean" },
};

/** What a user did wrong: told without a stack. */
class UsageError extends Error {}

async function main([command, ...rest]) {
  const end = rest.indexOf("--");
  const [own, host] = end < 0 ? [rest, []] : [rest.slice(0, end), rest.slice(end + 1)];
  const { values, positionals } = parseArgs({ args: own, options: OPTIONS, allowPositionals: true });
  if (command === undefined || command === "help" || command === "--help" || values.help) {
    process.stdout.write(USAGE);
    return;
  }
  if (values.uses !== undefined && !["state", "calls", "nothing"].includes(values.uses)) {
    throw new UsageError(`--uses is state, calls or nothing, not ${values.uses}`);
  }
  if (command === "where") {
    return where(positionals, values);
  }
  const source = sourceOf(positionals);
  const output = values.out ?? outputOf(source);
  const options = optionsOf(values);
  switch (command) {
    case "build":
      return tell(source, output, await made(source, output, options));
    case "dev":
      return dev(source, output, host, () =>
        made(source, output, { ...options, isQuick: true }).then((built) => tell(source, output, built)),
      );
    default:
      throw new UsageError(`there is no command ${command}\n${USAGE}`);
  }
}

function optionsOf({ minify, uses, engine, http }) {
  if (engine !== undefined && !["quickjs", "starlingmonkey"].includes(engine)) {
    throw new UsageError(`--engine is quickjs or starlingmonkey, not ${engine}`);
  }
  if (http) {
    if (engine === "quickjs" || uses !== undefined) {
      throw new UsageError("--http is for StarlingMonkey, and goes without --uses");
    }
    return { minify, uses: "http", engine: starlingMonkeyHttp };
  }
  return { minify, uses, engine: engine === "starlingmonkey" ? starlingMonkey : quickjs };
}

async function where([source, ...places], values) {
  if (source === undefined || places.length === 0) {
    throw new UsageError("where takes a source, and positions in its bundle such as 120:7");
  }
  const { positions } = await bundle(sourceOf([source]), optionsOf(values));
  for (const place of places) {
    const [, line, column] = /^(?:.*:)?(\d+):(\d+)$/.exec(place) ?? [];
    if (line === undefined) {
      throw new UsageError(`a position is LINE:COLUMN, not ${place}`);
    }
    console.log(
      position(Number(line), Number(column), positions) ?? "not of a source: of the SDK, or of no code",
    );
  }
}

function sourceOf(positionals) {
  if (positionals.length > 1) {
    throw new UsageError(`one source is expected, not ${positionals.length}`);
  }
  const source = positionals[0] ?? SOURCES.find(existsSync);
  if (source === undefined) {
    throw new UsageError(`there is none of ${SOURCES.join(", ")} here: name the source`);
  }
  if (!existsSync(source)) {
    throw new UsageError(`there is no ${source}`);
  }
  return source;
}

async function made(source, output, options) {
  const began = performance.now();
  const built = await build(source, options);
  put(output, built.component);
  return { ...built, ms: performance.now() - began };
}

function tell(source, output, { component, kind, uses, ms, files }) {
  const size = `${(component.length / 1e6).toFixed(1)} MB, ${(ms / 1000).toFixed(1)} s`;
  console.log(`${source} -> ${relative(process.cwd(), output)} (${size})`);
  const use = uses.find(({ name }) => kind !== "state" || !["send", "call"].includes(name));
  if (kind === "state") {
    console.log(`  stateful${use === undefined ? "" : `: ${use.file}:${use.line} uses context.${use.name}`}`);
  }
  return files;
}

main(process.argv.slice(2)).catch((error) => {
  const isExpected =
    error instanceof UsageError || error instanceof SourceError || error.code?.startsWith?.("ERR_PARSE_ARGS");
  console.error(`meshage-js: ${isExpected ? error.message : (error.stack ?? error)}`);
  process.exit(1);
});
