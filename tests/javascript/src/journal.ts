// Appends an id to the entity's list, and gives the list back.

import { type Context, type Message } from "meshage";

interface State {
  list?: string[];
}

export default async (_: Message, context: Context<State>) => {
  const list = context.state.list ?? [];
  if (context.query.append !== undefined) {
    await null;
    context.state.list = [...list, context.query.append as string];
  }
  return { list: context.state.list ?? [] };
};
