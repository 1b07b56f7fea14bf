// What a handler uses of its context, read from its source: only that is imported, since it is the
// import of state that makes a stream stateful.

import { parse } from "acorn";

const STATEFUL = new Set(["state", "entity", "remind", "cancel"]);
const CALLING = new Set(["send", "call"]);

/** Names that are taken for the context wherever they stand. */
const CONTEXT = new Set(["context", "ctx"]);

/** Finds uses in the code of one module, without types: `[{ name, line }]`. */
export function usesOf(code) {
  const tree = parse(code, { ecmaVersion: "latest", sourceType: "module", locations: true });
  const uses = [];
  visit(tree, CONTEXT, uses);
  return uses;
}

function visit(node, names, uses) {
  if (node === null || typeof node !== "object") {
    return;
  }
  if (Array.isArray(node)) {
    for (const one of node) {
      visit(one, names, uses);
    }
    return;
  }
  let inner = names;
  switch (node.type) {
    case "FunctionDeclaration":
    case "FunctionExpression":
    case "ArrowFunctionExpression": {
      const second = node.params[1]?.type === "AssignmentPattern" ? node.params[1].left : node.params[1];
      if (second?.type === "Identifier") {
        inner = new Set([...names, second.name]);
      } else if (second?.type === "ObjectPattern") {
        note(second, uses);
      }
      break;
    }
    case "MemberExpression":
      if (node.object.type === "Identifier" && names.has(node.object.name)) {
        const { property } = node;
        add(node.computed ? property.value : property.name, node, uses);
      }
      break;
    case "VariableDeclarator":
      if (node.id.type === "ObjectPattern" && node.init?.type === "Identifier" && names.has(node.init.name)) {
        note(node.id, uses);
      }
      break;
  }
  for (const [key, value] of Object.entries(node)) {
    if (key !== "loc" && key !== "type") {
      visit(value, inner, uses);
    }
  }
}

function note(pattern, uses) {
  for (const property of pattern.properties) {
    if (property.type === "Property") {
      add(property.key.name ?? property.key.value, property, uses);
    }
  }
}

function add(name, node, uses) {
  if (STATEFUL.has(name) || CALLING.has(name)) {
    uses.push({ name, line: node.loc.start.line });
  }
}

/** `state`, `calls` or `nothing`. */
export function kindOf(uses) {
  if (uses.some(({ name }) => STATEFUL.has(name))) {
    return "state";
  }
  return uses.length > 0 ? "calls" : "nothing";
}
