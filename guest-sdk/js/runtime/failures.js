// Failures: what a handler throws to refuse a message. The text goes to the caller.

/** A refusal, of one of the kinds that callers are told apart. */
export class Failure extends Error {
  constructor(kind, text, options) {
    super(text, options);
    this.kind = kind;
  }
  get name() {
    return this.constructor.name;
  }
}

/** The message itself is wrong: 400. */
export class Invalid extends Failure {
  constructor(text, options) {
    super("invalid", text, options);
  }
}

/** What it asks for does not exist: 404. */
export class NotFound extends Failure {
  constructor(text, options) {
    super("not-found", text, options);
  }
}

/** It does not fit the present state of the entity: 409. */
export class Conflict extends Failure {
  constructor(text, options) {
    super("conflict", text, options);
  }
}

/** It cannot be done now, and nothing was done: 503. */
export class Unavailable extends Failure {
  constructor(text, options) {
    super("unavailable", text, options);
  }
}

const KINDS = ["invalid", "not-found", "conflict", "unavailable", "internal"];

/** The failure that a called handler, or the mesh, answered with. */
export function failureOf({ tag, val }) {
  const Kind = { invalid: Invalid, "not-found": NotFound, conflict: Conflict, unavailable: Unavailable }[tag];
  return Kind === undefined ? new Failure("internal", val) : new Kind(val);
}

/** How the host is told of a failure; nothing if the error is none. */
export function lowered(error) {
  if (error instanceof Failure && KINDS.includes(error.kind)) {
    return { tag: error.kind, val: String(error.message).toWellFormed() };
  }
}
