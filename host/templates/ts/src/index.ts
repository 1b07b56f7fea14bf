// The stream `{{name}}`: greets who is named, and counts for each partition key how often it has.

import { Invalid, type Context, type Message } from "meshage";

interface Greeted {
  times?: number;
}

export default (message: Message<{ name?: unknown }>, context: Context<Greeted>) => {
  const times = context.state.times ?? 0;
  if (context.method === "GET") {
    return { times };
  }
  if (typeof message.name !== "string" || message.name === "") {
    throw new Invalid('a name, please: {"name":"Ada"}');
  }
  context.state.times = times + 1;
  return { greeting: `Hello, ${message.name}!`, times: context.state.times };
};
