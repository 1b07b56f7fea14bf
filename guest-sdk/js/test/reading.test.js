// What is read of a message is what was sent, or it is refused.

import assert from "node:assert/strict";
import test from "node:test";

import { Invalid } from "../runtime/failures.js";

// The runtime asks the engine for these; Node has its own.
Uint8Array.prototype.toBase64 ??= function toBase64() {
  return Buffer.from(this).toString("base64");
};
Uint8Array.fromBase64 ??= (text) => new Uint8Array(Buffer.from(text, "base64"));

const { parse } = await import("../runtime/json.js");
const { headers, merged, query } = await import("../runtime/message.js");
const { Reply, replyOf } = await import("../runtime/reply.js");

const bytes = (text) => new TextEncoder().encode(text);
const message = (body) => merged({ stream: "echo", partitionKey: "1", body: bytes(body) });

test("the address comes first, and wins", () => {
  assert.equal(JSON.stringify(message("")), '{"stream":"echo","partitionKey":"1"}');
  assert.equal(
    JSON.stringify(message('{"b":1,"stream":2,"__proto__":3}')),
    '{"stream":"echo","partitionKey":"1","b":1,"__proto__":3}',
  );
  for (const body of ["[1]", '"text"', "17", "null"]) {
    assert.equal(JSON.stringify(message(body)), `{"stream":"echo","partitionKey":"1","body":${body}}`);
  }
});

test("a body that is no JSON is refused when it is asked for", () => {
  const bad = message("no json");
  assert.equal(bad.stream, "echo");
  for (const use of [() => bad.other, () => JSON.stringify(bad), () => ({ ...bad }), () => "x" in bad]) {
    assert.throws(use, Invalid);
  }
});

test("numbers are read as they were sent", () => {
  for (const text of [
    "9007199254740991",
    "-1",
    "1e3",
    "0.1",
    "100000000000000000000",
    '"12345678901234567890"',
    '{"e":"1e999"}',
  ]) {
    assert.deepEqual(parse(bytes(text)), JSON.parse(text), text);
  }
  for (const text of ["9007199254740993", "[12345678901234567890]", "1e999", '{"a":-1e400}']) {
    assert.throws(() => parse(bytes(text)), Invalid, text);
  }
});

test("depth, UTF-8 and grammar are checked", () => {
  const nested = (levels) => bytes("[".repeat(levels) + "]".repeat(levels));
  assert.ok(parse(nested(127)));
  assert.throws(() => parse(nested(128)), /nested too deeply/);
  assert.deepEqual(parse(bytes(`[${"[],".repeat(500)}1]`)).length, 501);
  assert.equal(parse(bytes(`"${"[".repeat(500)}"`)).length, 500);
  assert.deepEqual(parse(bytes("\ufeff{}")), {});
  assert.throws(() => parse(new Uint8Array([0x22, 0xff, 0x22])), /not UTF-8/);
  assert.throws(() => parse(bytes("{")), /not JSON/);
});

test("queries and headers are by name", () => {
  assert.deepEqual({ ...query("a=1&b=x%20y+z&a=2&c&%41=%") }, { a: ["1", "2"], b: "x y z", c: "", A: "%" });
  assert.throws(() => query("a=%ff"), Invalid);
  assert.deepEqual(
    {
      ...headers([
        ["a", "1"],
        ["b", "2"],
        ["a", "3"],
      ]),
    },
    { a: "1, 3", b: "2" },
  );
});

test("each result has its status and type", () => {
  const check = (value, status, type, text) => {
    const { status: found, headers: list, body } = replyOf(value);
    const byName = Object.fromEntries(list);
    assert.deepEqual([found, byName["content-type"], new TextDecoder().decode(body)], [status, type, text]);
  };
  check({ a: 1 }, 200, "application/json", '{"a":1}');
  check("text", 200, "text/plain; charset=utf-8", "text");
  check(undefined, 204, undefined, "");
  check(bytes("b"), 200, "application/octet-stream", "b");
  check(new Reply({ a: 1 }, { status: 201, headers: { "Content-Type": "x/y" } }), 201, "x/y", '{"a":1}');
  check(new Reply(undefined, { status: 404 }), 404, undefined, "");
  for (const status of [99, 600, 2.5, "200"]) {
    assert.throws(() => replyOf(new Reply("", { status })), TypeError);
  }
  assert.throws(() => replyOf(() => 1), TypeError);
  // They would be lost without a word.
  assert.throws(() => replyOf({ a: [new Map([["b", 1]])] }), /Object\.fromEntries/);
  assert.throws(() => replyOf(new Set([1])), /Array\.from/);
});

test("bytes that are no UTF-8 are replaced as the Encoding Standard has it", async () => {
  const { decode, encode } = await import("../runtime/utf8.js");
  const standard = new TextDecoder("utf-8", { ignoreBOM: true });
  let seed = 1;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const pieces = [
    [0x41],
    [0xc3, 0xa4],
    [0xe2, 0x82, 0xac],
    [0xf0, 0x9f, 0x98, 0x80],
    [0xed, 0xa0, 0x80],
    [0xff],
  ];
  for (let round = 0; round < 3000; round++) {
    const some = Array.from({ length: random(6) + 1 }, () => {
      const piece = pieces[random(pieces.length)];
      return random(2) === 0
        ? piece
        : piece.slice(0, random(piece.length) + 1).concat(random(4) === 0 ? random(256) : []);
    });
    const bytes = new Uint8Array(some.flat());
    assert.equal(decode(bytes), standard.decode(bytes), bytes.join(" "));
  }
  assert.deepEqual(encode("a\ud800ä"), new TextEncoder().encode("a\ufffdä"));
});
