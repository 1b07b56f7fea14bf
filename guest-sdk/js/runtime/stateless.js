// What handlers without state may ask of entities.

import { call, send } from "meshage:mesh/calls";
import { called, outgoing, targetOf } from "./outgoing.js";

export function capabilities() {
  const members = {
    send(toStream, key, body, options) {
      called(send, targetOf(toStream, key), outgoing(body, options));
    },
    call: (toStream, key, body, options) => called(call, targetOf(toStream, key), outgoing(body, options)),
  };
  return { members, finish() {} };
}
