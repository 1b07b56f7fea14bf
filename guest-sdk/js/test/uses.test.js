// The build sees what a handler uses of its context.

import assert from "node:assert/strict";
import test from "node:test";

import { kindOf, usesOf } from "../build/uses.js";

function check(code, kind) {
  assert.equal(kindOf(usesOf(code)), kind, code);
}

test("uses are found by the name of the second parameter, and by `context`", () => {
  check("export default (message) => message.state", "nothing");
  check("export default (message, context) => context.method", "nothing");
  check("export default (m, c) => c.state.count++", "state");
  check("export default async (m, { entity, query }) => entity.get('a')", "state");
  check("export default (m, c) => { const { remind: later } = c; later('x', 1); }", "state");
  check("export default (m, c) => c['call']('a', 'b')", "calls");
  check("register('echo', (m, c) => c.send('a', 'b', {}))", "calls");
  check("function helper(context) { context.cancel('x'); }", "state");
  check("redux.state = other.entity", "nothing");
  check("export default (m, { state } = {}) => state", "state");
});

test("where it is used is told", () => {
  assert.deepEqual(usesOf("\n\nexport default (m, c) =>\n  c.state"), [{ name: "state", line: 4 }]);
});
