// Is a call running? While the component is built there is no host, and its time and randomness are those of the build.
export let running = false;
export const setRunning = (yes) => {
  running = yes;
};
export function needsCall(what) {
  if (!running)
    throw new Error(`${what} needs a message: while the module is loaded, at build time, there is none`);
}
