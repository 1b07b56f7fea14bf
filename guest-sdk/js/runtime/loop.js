// Timers, and the loop that runs until a promise is settled.
import { now, subscribeInstant } from "wasi:clocks/monotonic-clock";
import { needsCall } from "./phase.js";
import { Promise, drain, enqueue, forget, unhandled } from "./promise.js";

let timers = []; // by time, then by order of creation
let nextId = 1;
const ms = (d) => {
  d = Number(d);
  return d >= 0 && d <= 2147483647 ? d : 0;
}; // as in browsers and Node

function add(t) {
  let i = timers.length;
  while (i > 0 && timers[i - 1].at > t.at) i--;
  timers.splice(i, 0, t);
}

function timer(callback, delay, every, args) {
  if (typeof callback !== "function") throw new TypeError("a timer's callback must be a function");
  needsCall("a timer");
  const t = {
    id: nextId++,
    at: Math.round(now() + ms(delay) * 1e6),
    every: every ? Math.max(ms(delay), 1) * 1e6 : 0,
    callback,
    args,
  };
  add(t);
  return t.id;
}
export const setTimeout = (callback, delay, ...args) => timer(callback, delay, false, args);
export const setInterval = (callback, delay, ...args) => timer(callback, delay, true, args);
export const setImmediate = (callback, ...args) => timer(callback, 0, false, args);
export const clearTimeout = (id) => {
  timers = timers.filter((t) => t.id !== Number(id));
};
export const queueMicrotask = (callback) => {
  if (typeof callback !== "function") throw new TypeError("a microtask must be a function");
  enqueue((f) => {
    try {
      f();
    } catch (e) {
      uncaught(e);
    }
  }, callback);
};

let uncaught = () => {};

/** Runs `start`, and what it began, until what it returned is settled. `report` gets what nobody else does. */
export function run(start, report) {
  uncaught = report;
  try {
    let p = start();
    if (p === null || typeof p !== "object" || typeof p.then !== "function") return p;
    let state, value;
    Promise.resolve(p).then(
      (v) => {
        state = 1;
        value = v;
      },
      (e) => {
        state = 2;
        value = e;
      },
    );
    for (;;) {
      drain();
      if (state === 1) return value;
      if (state === 2) throw value;
      if (timers.length === 0) throw new Error("the handler awaits a promise that nothing will ever settle");
      const t = timers[0],
        time = now();
      if (t.at > time) {
        const pollable = subscribeInstant(t.at);
        pollable.block();
        pollable[Symbol.dispose]();
      }
      timers.shift();
      if (t.every > 0) {
        t.at = Math.max(t.at + t.every, time);
        add(t);
      }
      try {
        t.callback(...t.args);
      } catch (e) {
        uncaught(e);
      }
    }
  } finally {
    drain(); // what is ready still runs in this call
    for (const p of unhandled) report(Promise.reason(p));
    forget();
    timers = []; // nothing of this call may run in the next one, which is another entity's
  }
}
