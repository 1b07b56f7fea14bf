// The stream `{{name}}`: greets who is named, and counts for each partition key how often it has.

import { Invalid } from "meshage";

export default (message, context) => {
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
