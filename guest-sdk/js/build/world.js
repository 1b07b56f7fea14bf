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

/** Gives `work` a folder with the world `built`, which imports these interfaces of the mesh. */
export async function withWorld(imports, work) {
  const folder = mkdtempSync(join(tmpdir(), "meshage-js-"));
  try {
    for (const [name, text] of Object.entries(WASI)) {
      mkdirSync(join(folder, "deps", name), { recursive: true });
      writeFileSync(join(folder, "deps", name, `${name}.wit`), text);
    }
    mkdirSync(join(folder, "deps", "mesh"));
    cpSync(MESH, join(folder, "deps", "mesh", "mesh.wit"));
    writeFileSync(join(folder, "world.wit"), world(imports));
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function world(imports) {
  const lines = imports.map((name) => `  import meshage:mesh/${name}@0.1.0;\n`);
  return `package meshage:js;
world built {
${lines.join("")}  import wasi:clocks/monotonic-clock@0.2.0;
  import wasi:random/random@0.2.0;
  export meshage:mesh/message-handler@0.1.0;
}`;
}
