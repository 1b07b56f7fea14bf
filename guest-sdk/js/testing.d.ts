/** Runs a handler in Node.js, with its state in memory: for tests. */

/** An answer, or a message of the handler: its body, and ways to read it. */
export interface Readable {
  readonly body: Uint8Array;
  text(): string;
  json(): any;
}

export interface Answer extends Readable {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
}

/** What a test answers for others: 200 if there is no status; a body is JSON, but for text and bytes. */
export interface Given {
  status?: number;
  headers?: Record<string, string>;
  body?: unknown;
}

/** A message that the handler has sent; `timer` is its name if it is one of the entity's timers. */
export interface Sent {
  readonly stream: string;
  readonly partitionKey: string;
  readonly method: string;
  readonly query: string;
  readonly headers: [string, string][];
  readonly body: Uint8Array;
  readonly delay: number;
  readonly timer?: string;
}

export interface Options {
  query?: string;
  headers?: Record<string, string>;
  /** The message is that of this timer. */
  timer?: string;
}

/** Entities in memory, by partition key. */
export interface Stream {
  get(partitionKey: string, options?: Options): Answer;
  post(partitionKey: string, body?: unknown, options?: Options): Answer;
  put(partitionKey: string, body?: unknown, options?: Options): Answer;
  delete(partitionKey: string, options?: Options): Answer;
  send(method: string, partitionKey: string, body?: unknown, options?: Options): Answer;
  readonly sent: Sent[];
  readonly logs: { level: string; text: string }[];
}

/** Opens the handler of a source. `call` answers its calls, `fetch` its requests to other hosts; `call` may throw a failure of
 * `meshage`. */
export function open(
  source: string,
  others?: {
    call?: (
      message: Readable & { stream: string; partitionKey: string; method: string; query: string },
    ) => Given;
    fetch?: (request: Readable & { method: string; url: string; headers: [string, string][] }) => Given;
  },
): Promise<Stream>;

/** Loads a source, TypeScript too, as a module of Node.js: for HTTP handlers. */
export function load(source: string): Promise<Record<string, any>>;
