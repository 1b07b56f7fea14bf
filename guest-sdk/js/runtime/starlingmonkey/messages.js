// The messages of the host, with a number for the delay: the engine takes a `u64` as a BigInt alone.

import { send as sendAfter } from "meshage:mesh/messages";

export { call, cancel } from "meshage:mesh/messages";

export function send(target, message, delay, name) {
  sendAfter(target, message, BigInt(delay), name ?? undefined);
}
