// Whether a message is being handled. While the component is built there is no host: its time and its randomness
// are those of the build.

export let running = false;

export function setRunning(isRunning) {
  running = isRunning;
}

export function needsCall(what) {
  if (!running) {
    throw new Error(`${what} needs a message: while the module is loaded, at build time, there is none`);
  }
}
