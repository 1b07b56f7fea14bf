// One message from the host: runs the handler, and makes of its end what the host takes.

import { contextOf } from "./context.js";
import { lowered } from "./failures.js";
import { flush, log } from "./log.js";
import { run } from "./loop.js";
import { merged } from "./message.js";
import { setRunning } from "./phase.js";
import { handlerOf } from "./registry.js";
import { replyOf } from "./reply.js";
import { show } from "./show.js";

const FAILED = "the handler failed; the node's log says how";

const report = (error) => log("error", `nobody has handled: ${show(error)}`);

const NONE = { members: undefined, finish() {} };

/** `capabilities` are those that the build has put in. */
export function serve(exported, capabilities = () => NONE) {
  const handler = handlerOf(exported);
  return {
    handle(message) {
      setRunning(true);
      try {
        flush();
        const { members, finish } = capabilities(message);
        const context = contextOf(message, members);
        const returned = run(handler, merged(message), context, report);
        const reply = replyOf(returned);
        finish();
        return reply;
      } catch (error) {
        throw failed(error);
      } finally {
        setRunning(false);
      }
    },
  };
}

/** What the host is told of an error. */
export function failed(error) {
  const failure = lowered(error);
  if (failure === undefined) {
    log("error", show(error));
  }
  return failure ?? { tag: "internal", val: FAILED };
}
