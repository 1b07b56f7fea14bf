#!/usr/bin/env node
// The command `meshage-js`.

import { existsSync } from "node:fs";
import { relative } from "node:path";
import { parseArgs } from "node:util";

import { BundleError } from "./bundle.js";
import { build, outputOf, put } from "./component.js";
import { dev } from "./dev.js";

const USAGE = `usage: meshage-js build [SOURCE] [--out FILE] [--minify] [--uses state|calls|nothing]
       meshage-js dev   [SOURCE] [--out FILE] [--uses …] [-- FLAGS OF meshage-host]

build   makes a component of a handler: SOURCE (src/index.ts or src/index.js) becomes plugins/FOLDER.wasm, whose name is the stream
dev     builds on each saving, and runs a node with the component and its log
`;

const SOURCES = ["src/index.ts", "src/index.js", "index.ts", "index.js"];

const OPTIONS = {
  out: { type: "string" },
  minify: { type: "boolean" },
  uses: { type: "string" },
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
  const source = sourceOf(positionals);
  const output = values.out ?? outputOf(source);
  const options = { minify: values.minify, uses: values.uses };
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
    error instanceof UsageError || error instanceof BundleError || error.code?.startsWith?.("ERR_PARSE_ARGS");
  console.error(`meshage-js: ${isExpected ? error.message : (error.stack ?? error)}`);
  process.exit(1);
});
