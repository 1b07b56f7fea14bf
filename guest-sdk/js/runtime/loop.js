// Timers, and the loop that runs until a promise is settled.

import { now, subscribeInstant } from "wasi:clocks/monotonic-clock";

import { needsCall } from "./phase.js";
import { Promise, drain, enqueue, forget, isIdle, unhandled } from "./promise.js";

/** Longer delays are none, as in browsers and Node.js. */
const DELAY_MS_MAX = 2 ** 31 - 1;

const NS_OF_MS = 1e6;

/** By time, and those of one time in the order in which they were made. */
let timers = [];
let nextId = 1;

/** What is told of errors that nobody handles. */
let report = () => {};

/** Where answers come from that promises wait for, if the handler has any. */
let source = { isWaiting: () => false, receive: () => false, forget() {} };

export function addSource(added) {
  source = added;
}

function delayNs(delay) {
  const ms = Number(delay);
  return ms >= 0 && ms <= DELAY_MS_MAX ? ms * NS_OF_MS : 0;
}

function add(timer) {
  let at = timers.length;
  while (at > 0 && timers[at - 1].at > timer.at) {
    at--;
  }
  timers.splice(at, 0, timer);
}

function start(callback, delay, isRepeated, values) {
  if (typeof callback !== "function") {
    throw new TypeError("a timer's callback must be a function");
  }
  needsCall("a timer");
  const every = isRepeated ? Math.max(delayNs(delay), NS_OF_MS) : 0;
  const timer = { id: nextId++, at: Math.round(now() + delayNs(delay)), every, callback, values };
  add(timer);
  return timer.id;
}

export const setTimeout = (callback, delay, ...values) => start(callback, delay, false, values);
export const setInterval = (callback, delay, ...values) => start(callback, delay, true, values);
export const setImmediate = (callback, ...values) => start(callback, 0, false, values);
export const clearTimeout = (id) => {
  timers = timers.filter((timer) => timer.id !== Number(id));
};

export function queueMicrotask(callback) {
  if (typeof callback !== "function") {
    throw new TypeError("a microtask must be a function");
  }
  enqueue(attempt, callback);
}

function attempt(callback, values = []) {
  try {
    callback(...values);
  } catch (error) {
    report(error);
  }
}

/** Runs a handler, and what it has begun, until what it returned is settled. `told` gets errors that nobody handles. */
export function run(handler, message, context, told) {
  report = told;
  try {
    const returned = handler(message, context);
    if (returned === null || typeof returned !== "object" || typeof returned.then !== "function") {
      return returned;
    }
    return wait(returned);
  } finally {
    if (!isIdle()) {
      leave();
    }
    if (timers.length > 0) {
      timers = [];
    }
    source.forget();
  }
}

/** What is ready still runs in this call, and nothing of it in the next one, which is another entity's. */
function leave() {
  drain();
  for (const promise of unhandled) {
    report(Promise.reason(promise));
  }
  forget();
}

function wait(thenable) {
  let end;
  Promise.resolve(thenable).then(
    (value) => (end = { value }),
    (error) => (end = { error }),
  );
  for (;;) {
    drain();
    if (end !== undefined) {
      if ("error" in end) {
        throw end.error;
      }
      return end.value;
    }
    if (timers.length === 0 && !source.isWaiting()) {
      throw new Error("the handler awaits a promise that nothing will ever settle");
    }
    runNext();
  }
}

/** Waits for what comes next, a timer or an answer, and runs what waits for it. */
function runNext() {
  const timer = timers[0];
  const left = timer === undefined ? null : Math.max(timer.at - now(), 0);
  if (source.isWaiting()) {
    if (source.receive(left === null ? null : Math.ceil(left / NS_OF_MS)) || timer === undefined) {
      return;
    }
  } else if (left > 0) {
    const pollable = subscribeInstant(timer.at);
    pollable.block();
    pollable[Symbol.dispose]();
  }
  timers.shift();
  if (timer.every > 0) {
    timer.at = Math.max(timer.at + timer.every, now());
    add(timer);
  }
  attempt(timer.callback, timer.values);
}
