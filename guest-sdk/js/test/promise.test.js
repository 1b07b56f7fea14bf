// The runtime's Promise is one by the specification, and keeps the order of the engine's.

import assert from "node:assert/strict";
import test from "node:test";

import * as esbuild from "esbuild";
import aplus from "promises-aplus-tests";

import { Promise as Own, drain } from "../runtime/promise.js";

test("it passes the tests of Promises/A+", { timeout: 60_000 }, (_, done) => {
  const soon = () => setImmediate(drain);
  const after = (value) => {
    soon();
    return value;
  };
  const draining = setInterval(drain, 1);
  const adapter = {
    resolved: (value) => after(Own.resolve(value)),
    rejected: (reason) => after(Own.reject(reason)),
    deferred() {
      const { promise, resolve, reject } = Own.withResolvers();
      return {
        promise,
        resolve: (value) => after(resolve(value)),
        reject: (reason) => after(reject(reason)),
      };
    },
  };
  aplus(adapter, { reporter: "dot" }, (error) => {
    clearInterval(draining);
    done(error);
  });
});

const STEPS = `
const steps = [];
const note = (name) => (value) => { steps.push(name + ":" + (value instanceof Error ? value.message : String(value))); return value; };
const thenable = { then(resolve) { steps.push("then called"); resolve("thenable"); } };
async function counts(name) { for (let i = 0; i < 3; i++) { await i; note(name + i)(); } return Promise.resolve(name); }
async function throws() { await null; throw new Error("thrown"); }
async function* numbers() { yield 1; yield Promise.resolve(2); try { yield 3; } finally { await 0; note("finally")(); } }
const all = (async () => {
  const some = [counts("a"), counts("b"), thenable, (async () => { for await (const n of numbers()) { note("n")(n); if (n === 3) break; } })(), throws().catch(note("caught"))];
  note("all")((await Promise.all(some)).join());
});
all().then(note("end"));
Promise.resolve(1).then(note("p1")).then(note("p2")).finally(() => { note("f")(); }).then(note("p3"));
new Promise((resolve) => resolve(Promise.resolve("nested"))).then(note("nested"));
Promise.reject(new Error("r")).then(note("never")).catch(note("r1")).then(() => { throw new Error("again"); }).catch(note("r2"));
Promise.race([counts("c"), Promise.resolve("fast")]).then(note("race"));
Promise.any([Promise.reject(1), thenable]).then(note("any"));
Promise.allSettled([throws(), 1]).then((results) => note("settled")(JSON.stringify(results)));
Promise.any([]).catch((error) => note("none")(error.constructor.name));
class Mine extends Promise {}
Mine.resolve(thenable).then(note("mine"));
return steps;`;

test("reactions come in the order of the engine's own", async () => {
  const lowered = { "async-await": false, "async-generator": false, "for-await": false };
  const { code } = await esbuild.transform(`function main() {${STEPS}}`, { supported: lowered });
  const main = new Function("Promise", `${code}\nreturn main();`);
  const [native, own] = [main(Promise), main(Own)];
  drain();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(native.length > 20);
  assert.deepEqual(own, native);
});
