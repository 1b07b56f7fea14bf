// Promises on a queue of our own: the engine's are never drained after the build.
const PENDING = 0,
  FULFILLED = 1,
  REJECTED = 2;
let queue = [],
  head = 0;
/** Which call this is. What one call has left to promises must not run in another, which is that of another entity. */
let call = 0;
/** Whether this call has made a promise, or a job. */
let isUsed = false;
/** Promises that were rejected while nobody had asked. */
export const unhandled = new Set();

export const enqueue = (job, a, b, c) => {
  isUsed = true;
  queue.push(job, a, b, c);
};

/** Runs jobs until none is left. A job never throws: what a callback throws is its promise's. */
export function drain() {
  while (head < queue.length) {
    const job = queue[head],
      a = queue[head + 1],
      b = queue[head + 2],
      c = queue[head + 3];
    head += 4;
    if (head === queue.length) {
      queue.length = 0;
      head = 0;
    } else if (head >= 65536) {
      queue = queue.slice(head);
      head = 0;
    }
    job(a, b, c);
  }
}

export const isIdle = () => !isUsed;

/** Forgets what is left, and what it would still lead to. */
export function forget() {
  call++;
  isUsed = false;
  queue = [];
  head = 0;
  unhandled.clear();
}

let settle, resolve, reactTo, reject; // of promises; they need their private fields
const nothing = () => {};

export class Promise {
  #state = PENDING;
  #value;
  #reactions;
  #handled = false;

  static {
    settle = (p, state, value) => {
      const reactions = p.#reactions;
      p.#state = state;
      p.#value = value;
      p.#reactions = undefined;
      if (state === REJECTED && !p.#handled) {
        isUsed = true;
        unhandled.add(p);
      }
      if (reactions !== undefined)
        for (let i = 0; i < reactions.length; i++) enqueue(react, reactions[i], state, value);
    };
    reject = (p, e) => settle(p, REJECTED, e);
    reactTo = (p, reaction) => {
      if (!p.#handled) {
        p.#handled = true;
        if (p.#state === REJECTED) unhandled.delete(p);
      }
      if (p.#state !== PENDING) enqueue(react, reaction, p.#state, p.#value);
      else if (p.#reactions === undefined) p.#reactions = [reaction];
      else p.#reactions.push(reaction);
    };
  }

  constructor(executor) {
    if (typeof executor !== "function") throw new TypeError("Promise resolver is not a function");
    isUsed = true;
    if (executor === nothing) return;
    const [a, b] = resolvers(this);
    try {
      executor(a, b);
    } catch (e) {
      b(e);
    }
  }
  /** What a rejected promise was rejected with. */
  static reason(p) {
    return p.#value;
  }

  then(ok, err) {
    if (!(#state in this)) throw new TypeError("not a promise");
    const C = this.constructor === Promise ? Promise : species(this);
    const to = C === Promise ? new Promise(nothing) : capability(C);
    reactTo(this, {
      ok: typeof ok === "function" ? ok : undefined,
      err: typeof err === "function" ? err : undefined,
      to,
      of: call,
    });
    return C === Promise ? to : to.promise;
  }
  catch(err) {
    return this.then(undefined, err);
  }
  finally(f) {
    if (typeof f !== "function") return this.then(f, f);
    const C = species(this);
    return this.then(
      (v) => C.resolve(f()).then(() => v),
      (e) =>
        C.resolve(f()).then(() => {
          throw e;
        }),
    );
  }

  static resolve(x) {
    if (typeof x === "object" && x !== null && #state in x && x.constructor === this) return x;
    if (this !== Promise) {
      const c = capability(this);
      c.resolve(x);
      return c.promise;
    }
    const p = new Promise(nothing);
    resolve(p, x);
    return p;
  }
  static reject(e) {
    const c = capability(this);
    c.reject(e);
    return c.promise;
  }
  static withResolvers() {
    return capability(this);
  }
  static try(f, ...args) {
    return new this((ok) => ok(f(...args)));
  }
  static all(all) {
    return gather(
      this,
      all,
      (c, values, i, last) => [
        (v) => {
          values[i] = v;
          last();
        },
        c.reject,
      ],
      (c, values) => c.resolve(values),
    );
  }
  static allSettled(all) {
    return gather(
      this,
      all,
      (c, values, i, last) => [
        (value) => {
          values[i] = { status: "fulfilled", value };
          last();
        },
        (reason) => {
          values[i] = { status: "rejected", reason };
          last();
        },
      ],
      (c, values) => c.resolve(values),
    );
  }
  static any(all) {
    return gather(
      this,
      all,
      (c, errors, i, last) => [
        c.resolve,
        (e) => {
          errors[i] = e;
          last();
        },
      ],
      (c, errors) => c.reject(new AggregateError(errors, "All promises were rejected")),
    );
  }
  static race(all) {
    return gather(this, all, (c) => [c.resolve, c.reject], nothing);
  }
  static get [Symbol.species]() {
    return this;
  }
}
Object.defineProperty(Promise.prototype, Symbol.toStringTag, { value: "Promise", configurable: true });

resolve = (p, x) => {
  if (x === p) return reject(p, new TypeError("a promise cannot be resolved with itself"));
  if (x === null || (typeof x !== "object" && typeof x !== "function")) return settle(p, FULFILLED, x);
  let then;
  try {
    then = x.then;
  } catch (e) {
    return reject(p, e);
  }
  if (typeof then !== "function") return settle(p, FULFILLED, x);
  enqueue(follow, p, x, then);
};
function follow(p, x, then) {
  const [a, b] = resolvers(p);
  try {
    then.call(x, a, b);
  } catch (e) {
    b(e);
  }
}
function react({ ok, err, to, of }, state, value) {
  if (of !== call) return;
  const callback = state === FULFILLED ? ok : err,
    own = to instanceof Promise;
  if (callback !== undefined) {
    try {
      value = callback(value);
      state = FULFILLED;
    } catch (e) {
      value = e;
      state = REJECTED;
    }
  }
  if (state === FULFILLED) own ? resolve(to, value) : to.resolve(value);
  else own ? reject(to, value) : to.reject(value);
}
/** The two functions that settle a promise, once. */
function resolvers(p) {
  let done = false;
  return [
    (x) => {
      if (!done) {
        done = true;
        resolve(p, x);
      }
    },
    (e) => {
      if (!done) {
        done = true;
        reject(p, e);
      }
    },
  ];
}
function species(p) {
  const C = p.constructor;
  return C === undefined ? Promise : (C[Symbol.species] ?? Promise);
}
function capability(C) {
  if (C === Promise) {
    const promise = new Promise(nothing),
      [resolve, reject] = resolvers(promise);
    return { promise, resolve, reject };
  }
  let resolve, reject;
  const promise = new C((a, b) => {
    if (resolve !== undefined || reject !== undefined) throw new TypeError("executor called twice");
    resolve = a;
    reject = b;
  });
  if (typeof resolve !== "function" || typeof reject !== "function")
    throw new TypeError("not a promise constructor");
  return { promise, resolve, reject };
}
function gather(C, all, callbacks, end) {
  const c = capability(C),
    values = [];
  let left = 1,
    i = 0;
  const one = () => {
    if (--left === 0) end(c, values);
  };
  try {
    for (const x of all) {
      let called = false;
      left++;
      const [ok, err] = callbacks(c, values, i++, () => {
        if (!called) {
          called = true;
          one();
        }
      });
      C.resolve(x).then(ok, err);
    }
    one();
  } catch (e) {
    c.reject(e);
  }
  return c.promise;
}
