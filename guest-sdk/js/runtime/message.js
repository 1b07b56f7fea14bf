// The message as handlers see it: its address, merged with the JSON of its body.

import { Invalid } from "./failures.js";
import { parse } from "./json.js";

/** One object: `stream`, `partitionKey`, then the members of the body. A body that is no JSON is refused when
 * something of it is asked for: who reads `context.body` may get any. */
export function merged({ stream, partitionKey, body }) {
  const address = { stream, partitionKey };
  if (body.length === 0) {
    return address;
  }
  let value;
  try {
    value = parse(body);
  } catch (failure) {
    return refusing(address, failure);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    address.body = value;
    return address;
  }
  const message = { stream, partitionKey, ...value };
  message.stream = stream;
  message.partitionKey = partitionKey;
  return message;
}

function refusing(address, failure) {
  const refuse = () => {
    throw failure;
  };
  return new Proxy(address, {
    get: (target, name, self) =>
      Object.hasOwn(target, name) ? target[name] : name === "then" ? undefined : refuse(self),
    has: refuse,
    ownKeys: refuse,
    getOwnPropertyDescriptor: refuse,
    set: refuse,
    deleteProperty: refuse,
  });
}

/** The members of a query: a name that comes more than once has a list. */
export function query(text) {
  const members = Object.create(null);
  for (const part of text.split("&")) {
    if (part === "") {
      continue;
    }
    const at = part.indexOf("=");
    const name = decoded(at < 0 ? part : part.slice(0, at));
    const value = at < 0 ? "" : decoded(part.slice(at + 1));
    if (!(name in members)) {
      members[name] = value;
    } else if (Array.isArray(members[name])) {
      members[name].push(value);
    } else {
      members[name] = [members[name], value];
    }
  }
  return members;
}

/** As the URL Standard has it for forms: what is no escape stays as it is. */
function decoded(text) {
  const spaced = text.replaceAll("+", " ");
  try {
    return decodeURIComponent(spaced.replace(/%(?![0-9a-fA-F]{2})/g, "%25"));
  } catch {
    throw new Invalid(`the query has ${JSON.stringify(text)}, which is not UTF-8 when it is decoded`);
  }
}

/** Headers by name, in lower case; those of one name are joined. */
export function headers(list) {
  const byName = Object.create(null);
  for (const [name, value] of list) {
    byName[name] = name in byName ? `${byName[name]}, ${value}` : value;
  }
  return byName;
}
