// A tally for each key: state, named values, timers, messages and calls.

import { Conflict, type Context, type Message } from "meshage";

interface State {
  count?: number;
  timers?: string[];
}

export default async (message: Message, context: Context<State>) => {
  const { state, entity } = context;
  if (context.timer !== undefined) {
    (state.timers ??= []).push(context.timer);
    return;
  }
  if (context.method === "GET") {
    if (context.query.write) {
      state.count = -1;
    }
    return { ...state, values: [...entity.scan("v/")] };
  }
  switch (context.query.act) {
    case "remind":
      context.remind(message.name, message.delay ?? 0);
      return;
    case "cancel":
      context.cancel(message.name);
      return;
    case "send":
      context.send("tally", message.to, { by: message.by });
      break;
    case "call":
      return context.call("tally", message.to, { by: message.by }).json();
    case "ask":
      return context.call("tally", message.to, undefined, { method: "GET", query: { a: 1 } }).json();
    case "set":
      entity.set(`v/${message.name}`, message.value);
      return;
    case "clear":
      entity.clear();
      return;
    case "fail":
      state.count = 1_000_000;
      await null;
      throw new Conflict("nothing of it is kept");
  }
  await null;
  state.count = (state.count ?? 0) + (message.by ?? 1);
  return { count: state.count };
};
