// The counter as a Durable Object.
export default {
  fetch(request, env) {
    const id = env.counters.idFromName(new URL(request.url).pathname);
    return env.counters.get(id).fetch(request);
  },
};
export class Counter {
  constructor(state) { this.storage = state.storage; }
  async fetch() {
    const counter = (await this.storage.get("state")) ?? { count: 0, padding: "x".repeat(70) };
    counter.count += 1;
    await this.storage.put("state", counter);
    return new Response(String(counter.count));
  }
}
