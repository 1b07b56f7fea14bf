// `meshage/testing` runs handlers as a node does.

import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Conflict } from "../index.js";
import { open } from "../testing.js";

function opened(text, others) {
  const source = join(mkdtempSync(join(tmpdir(), "meshage-test-")), "handler.ts");
  writeFileSync(source, text);
  return open(source, others);
}

test("state is kept, but not of a message that fails", async () => {
  const stream = await opened(`export default async (message, context) => {
    context.state.n = (context.state.n ?? 0) + 1;
    context.entity.set("ä" + context.state.n, { n: context.state.n });
    context.remind("later", 1000);
    await new Promise((resolve) => setTimeout(resolve, 2));
    if (message.fail) throw new Error("told to");
    return [context.state.n, ...context.entity.scan("ä")].length;
  }`);
  assert.equal(stream.post("a", {}).json(), 2);
  assert.equal(stream.post("a", { fail: true }).status, 500);
  assert.match(stream.logs[0].text, /told to/);
  assert.equal(stream.post("a", {}).json(), 3);
  assert.equal(stream.post("b", {}).json(), 2);
  assert.deepEqual(
    stream.sent.map(({ partitionKey, delay, timer }) => [partitionKey, delay, timer]),
    [
      ["a", 1000, "later"],
      ["b", 1000, "later"],
    ],
  );
  assert.equal(stream.get("a").status, 500);
});

test("calls and requests are answered by the test", async () => {
  const source = `import { Conflict } from "meshage";
  export default async (message, context) => {
    try {
      const { total } = context.call("bank", "b", { sum: message.sum }).json();
      const rate = await fetch("https://rates.example/eur").then((answer) => answer.json());
      return total * rate;
    } catch (error) {
      return error instanceof Conflict ? "conflict: " + error.message : Promise.reject(error);
    }
  }`;
  const stream = await opened(source, {
    call: (message) => {
      if (message.json().sum > 10) throw new Conflict("too much");
      return { body: { total: message.json().sum * 2 } };
    },
    fetch: ({ url }) => ({ body: url.endsWith("eur") ? 3 : 0 }),
  });
  assert.equal(stream.post("a", { sum: 5 }).json(), 30);
  assert.equal(stream.post("a", { sum: 50 }).text(), "conflict: too much");
});
