// The counter as a virtual object of Restate.
import * as restate from "@restatedev/restate-sdk";
const counter = restate.object({
  name: "counter",
  handlers: {
    add: async (context) => {
      const state = (await context.get("state")) ?? { count: 0, padding: "x".repeat(70) };
      state.count += 1;
      context.set("state", state);
      return state.count;
    },
  },
});
// Node.js before 22 has it not.
Promise.withResolvers ??= () => {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};
restate.serve({ services: [counter], port: Number(process.argv[2]) });
