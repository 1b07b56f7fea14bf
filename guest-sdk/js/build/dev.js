// Builds on each saving, and runs a node of its own with its log on the terminal.

import { spawn } from "node:child_process";
import { existsSync, watch } from "node:fs";
import { dirname, resolve } from "node:path";

import { SourceError } from "./source-error.js";

/** Editors save in several steps. */
const SETTLED_MS = 30;

/** Builds once, starts a node, and builds again whenever one of the files of the last build changes. */
export async function dev(source, output, flags, build) {
  const watchers = new Map();
  let timer;
  let isBuilding = false;
  let isChanged = false;

  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(again, SETTLED_MS);
  };
  const again = async () => {
    if (isBuilding) {
      isChanged = true;
      return;
    }
    isBuilding = true;
    try {
      follow(await build());
    } catch (error) {
      if (!(error instanceof SourceError)) {
        throw error;
      }
      console.error(`meshage-js: ${error.message}`);
      if (existsSync(output)) {
        console.error("\nthe last good one runs on");
      }
    } finally {
      isBuilding = false;
    }
    if (isChanged) {
      isChanged = false;
      changed();
    }
  };
  // Folders, as editors replace files.
  const follow = (files) => {
    const own = files.filter((file) => !file.includes("node_modules") && !file.includes(":"));
    for (const folder of new Set([source, ...own].map((file) => dirname(resolve(file))))) {
      if (!watchers.has(folder)) {
        watchers.set(
          folder,
          watch(folder, (_, name) => name !== null && /\.([cm]?[jt]sx?|json)$/.test(name) && changed()),
        );
      }
    }
  };

  follow([]);
  await again();
  const host = process.env.MESHAGE_HOST ?? "meshage-host";
  const node = spawn(host, ["--plugins", dirname(output), ...flags], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.on(signal, () => node.kill(signal));
  }
  return new Promise((done, failed) => {
    node.on("error", (error) => {
      const text = `cannot run ${host}: ${error.message}; put meshage-host on the PATH, or name it in MESHAGE_HOST`;
      failed(error.code === "ENOENT" ? new SourceError(text) : error);
    });
    node.on("exit", (code) => process.exit(code ?? 0));
  });
}
