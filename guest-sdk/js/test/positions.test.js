// Positions in a bundle lead to those in the sources.

import assert from "node:assert/strict";
import test from "node:test";

import * as esbuild from "esbuild";

import { table } from "../build/source-map.js";
import { position } from "../runtime/where.js";

test("every position of a long source is found again", async () => {
  const lines = Array.from(
    { length: 500 },
    (_, n) => `export function f${n}() { throw new Error(String(${n})); }`,
  );
  const text = `${lines.join("\n")}\n`;
  const options = { loader: "ts", sourcemap: "external", sourcefile: "src/a.ts", minifyWhitespace: true };
  const { code, map } = await esbuild.transform(text, options);
  const found = table(
    JSON.parse(map),
    (name) => name,
    () => text.split("\n"),
  );
  assert.ok(found.blocks.length > 10);
  for (const [row, line] of code.split("\n").entries()) {
    for (const { index, 1: number } of line.matchAll(/function f(\d+)/g)) {
      const place = position(row + 1, index + 1, found);
      assert.match(place, new RegExp(`^src/a.ts:${Number(number) + 1}:`), `f${number}`);
    }
  }
  // The engine's position of `new Error` is that of `Error`.
  const at = code.indexOf("Error(");
  assert.equal(position(1, at + 1, found), `src/a.ts:1:${lines[0].indexOf("new Error") + 1}`);
  assert.equal(position(9999, 1, found), undefined);
});

test("what is not to be shown has no position, and packages have their file alone", async () => {
  const { map, code } = await esbuild.transform("throw 1;\nthrow 2;", {
    sourcemap: "external",
    sourcefile: "a.js",
  });
  const end = [1, code.indexOf("throw") + 1];
  const named = (name) =>
    position(
      ...end,
      table(
        JSON.parse(map),
        () => name,
        () => [],
      ),
    );
  assert.equal(named(undefined), undefined);
  assert.equal(named("node_modules/p/index.js"), "node_modules/p/index.js");
  assert.equal(named("src/a.js"), "src/a.js:1:1");
});
