/** Handlers for meshage in JavaScript and TypeScript. */

/** What JSON can be. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json | undefined };

/** One message: the address of its entity, then the members of its body. A body that is JSON but no object is under
 * `body`; one that is no JSON is refused (400) as soon as something of it is asked for. */
export type Message<Body = Record<string, any>> = Body & { stream: string; partitionKey: string };

/** What a handler returns: a string is text, bytes are `application/octet-stream`, nothing is 204, all else is JSON. */
export type Returned =
  Reply | string | Uint8Array | ArrayBuffer | object | number | boolean | null | undefined | void;

export type Handler<Body = Record<string, any>, State = any> = (
  message: Message<Body>,
  context: Context<State>,
) => Returned | Promise<Returned>;

/** Registers the handler, as in meshage for Node.js: the same as `export default handler`. The stream is called like the
 * component's file, whatever is said here. */
export function register<Body = Record<string, any>, State = any>(
  stream: string,
  handler: Handler<Body, State>,
): void;

/** A reply with a status (200 to 599) and headers of its own. */
export class Reply {
  constructor(
    body?: Returned,
    options?: { status?: number; headers?: Record<string, string> | Iterable<[string, string]> },
  );
}

/** A refusal. The text goes to the caller: keep out of it what callers must not know. */
export class Failure extends Error {
  constructor(
    kind: "invalid" | "not-found" | "conflict" | "unavailable" | "internal",
    text: string,
    options?: ErrorOptions,
  );
  readonly kind: "invalid" | "not-found" | "conflict" | "unavailable" | "internal";
}
/** The message itself is wrong: 400. */
export class Invalid extends Failure {
  constructor(text: string, options?: ErrorOptions);
}
/** What it asks for does not exist: 404. */
export class NotFound extends Failure {
  constructor(text: string, options?: ErrorOptions);
}
/** It does not fit the present state of the entity: 409. */
export class Conflict extends Failure {
  constructor(text: string, options?: ErrorOptions);
}
/** It cannot be done now, and nothing was done; the same message may succeed later: 503. */
export class Unavailable extends Failure {
  constructor(text: string, options?: ErrorOptions);
}

/** What there is of a message besides, and what a handler may do. `state`, `entity`, `remind` and `cancel` make the stream
 * stateful: messages of one entity run one after the other, and what one writes is committed before its reply leaves.
 *
 * The build looks for these names in the source: call the argument `context` (or take them apart in the handler's
 * parameters) where they are used. */
export interface Context<State = any> {
  /** Unique in the whole mesh; the log has it. */
  readonly id: string;
  readonly stream: string;
  readonly partitionKey: string;
  /** `GET`, `POST`, `PUT`, `PATCH` or `DELETE`. */
  readonly method: string;
  /** The query, decoded; a name that comes more than once has a list. */
  readonly query: Readonly<Record<string, string | string[]>>;
  /** The query as it was sent, without the `?`. */
  readonly queryText: string;
  /** `content-type`, and those that the manifest names; in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** The body as it was sent. */
  readonly body: Uint8Array;
  /** The body as text; what is not UTF-8 is replaced. */
  text(): string;
  /** The name of the timer that brings the message. */
  readonly timer: string | undefined;
  /** The node's log; `console` is the same. */
  readonly log: Pick<Console, "trace" | "debug" | "info" | "warn" | "error" | "log">;

  /** The entity's state, as JSON; `{}` at first. What it is when the handler has returned is committed. At most 1 MiB.
   * A GET must not change it (500 `read-only`). */
  state: State;
  /** The entity's values by name (1 to 1,024 bytes). `state` is the one of that name. */
  readonly entity: Entity;
  /** Sends a message that leaves when what the handler writes is committed, `delay` milliseconds later. On a stateful
   * stream it takes effect once. Without state it is sent at once, and delivered when `send` returns. */
  send(stream: string, partitionKey: string, body?: unknown, options?: Outgoing & { delay?: number }): void;
  /** Sets a timer: this entity gets a message whose `context.timer` is `name`, `delay` milliseconds after the commit. A
   * later one of the same name takes its place. */
  remind(name: string, delay: number, body?: unknown): void;
  /** Removes a timer. */
  cancel(name: string): void;
  /** Asks an entity, and waits for its answer. It takes effect whatever becomes of the caller.
   *
   * @throws the failure of the other handler, or `Unavailable` if nothing ran. */
  call(stream: string, partitionKey: string, body?: unknown, options?: Outgoing): Answer;
}

export interface Outgoing {
  /** `POST` if nothing is said; a call may be a `GET`. */
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  query?: string | Record<string, string | number | boolean | (string | number | boolean)[]>;
  headers?: Record<string, string>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  text(): string;
  json(): any;
}

/** The values of an entity: JSON, or bytes. One has at most 1 MiB; one message writes at most 16 MiB. */
export interface Entity {
  get(name: string): any;
  set(name: string, value: unknown): void;
  getBytes(name: string): Uint8Array | undefined;
  setBytes(name: string, value: Uint8Array | ArrayBuffer): void;
  delete(name: string): void;
  /** Deletes all values. */
  clear(): void;
  /** Values whose names begin with the prefix, in the order of the names' bytes. */
  scan(prefix?: string): IterableIterator<[string, any]>;
}
