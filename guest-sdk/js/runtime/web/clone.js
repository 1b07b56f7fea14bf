// structuredClone: the engine has none.
import clone from "@ungap/structured-clone";
export const structuredClone = (x) => clone(x);
