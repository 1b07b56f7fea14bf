// The example of meshage for Node.js, as it was.

import { register } from "meshage";

register("echo", (message) => {
  return { echoed: message };
});
