import assert from "node:assert/strict";
import { test } from "node:test";

import { open } from "meshage/testing";

test("it greets and counts", async () => {
  const stream = await open("src/index.js");
  for (const times of [1, 2]) {
    assert.deepEqual(stream.post("ada", { name: "Ada" }).json(), { greeting: "Hello, Ada!", times });
  }
  assert.equal(stream.post("ada", { name: "" }).status, 400);
  assert.deepEqual(stream.get("ada").json(), { times: 2 });
});
