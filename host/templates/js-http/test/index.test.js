import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "meshage/testing";

test("it greets the key", async () => {
  const { default: handle } = await load("src/index.js");
  const ask = (path, init) => handle(new Request(`http://localhost${path}`, init));
  const answer = await ask("/", { headers: { "meshage-partition-key": "ada" } });
  assert.equal(await answer.text(), "Hello, ada!\n");
  assert.equal((await ask("/x")).status, 404);
  assert.equal((await ask("/", { method: "POST" })).status, 405);
});
