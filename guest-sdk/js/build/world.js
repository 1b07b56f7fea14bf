// The world that a component is built for: what it imports of the mesh and of WASI.

import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MESH = new URL("../wit/mesh.wit", import.meta.url);

/** The part of WASI that the runtime asks of the host. */
const WASI = {
  io: `package wasi:io@0.2.0;
interface poll {
  resource pollable {
    block: func();
  }
}`,
  clocks: `package wasi:clocks@0.2.0;
interface monotonic-clock {
  use wasi:io/poll@0.2.0.{pollable};
  type instant = u64;
  now: func() -> instant;
  subscribe-instant: func(when: instant) -> pollable;
}`,
  random: `package wasi:random@0.2.0;
interface random {
  get-random-bytes: func(len: u64) -> list<u8>;
}`,
};

const WASI_IMPORTS = ["wasi:clocks/monotonic-clock@0.2.0", "wasi:random/random@0.2.0"];

/** What a handler of HTTP exports. The engine brings along what it imports. */
const HTTP = `package wasi:http@0.2.10;
interface types {
  resource incoming-request;
  resource response-outparam;
}
interface incoming-handler {
  use types.{incoming-request, response-outparam};
  handle: func(request: incoming-request, response-out: response-outparam);
}`;

const EXPORTS = { http: "wasi:http/incoming-handler@0.2.10" };
const HANDLER = "meshage:mesh/message-handler@0.1.0";

/** Gives `work` a folder with the world `built`, for a bundle of this kind that imports these interfaces of the mesh, and of WASI
 * what the runtime imports `withWasi`. */
export async function withWorld({ kind, imports }, withWasi, work) {
  const folder = mkdtempSync(join(tmpdir(), "meshage-js-"));
  try {
    const packages = { ...(withWasi && WASI), ...(kind === "http" && { http: HTTP }) };
    for (const [name, text] of Object.entries(packages)) {
      mkdirSync(join(folder, "deps", name), { recursive: true });
      writeFileSync(join(folder, "deps", name, `${name}.wit`), text);
    }
    mkdirSync(join(folder, "deps", "mesh"), { recursive: true });
    cpSync(MESH, join(folder, "deps", "mesh", "mesh.wit"));
    const all = [...imports.map((name) => `meshage:mesh/${name}@0.1.0`), ...(withWasi ? WASI_IMPORTS : [])];
    const lines = [...all.map((name) => `import ${name};`), `export ${EXPORTS[kind] ?? HANDLER};`];
    writeFileSync(join(folder, "world.wit"), `package meshage:js;\nworld built {\n${lines.join("\n")}\n}\n`);
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
