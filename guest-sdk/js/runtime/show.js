import { locate } from "./where.js";
export function show(x) {
  if (typeof x === "string") return x;
  if (Error.isError(x))
    return (
      `${x}${(x.stack ?? "")
        .split("\n")
        .map(locate)
        .filter(Boolean)
        .map((f) => `\n    at ${f}`)
        .join("")}` + (x.cause === undefined ? "" : `\ncaused by ${show(x.cause)}`)
    );
  if (typeof x === "object" && x !== null) {
    const seen = [];
    try {
      return (
        JSON.stringify(x, function (_, v) {
          while (seen.length && seen.at(-1) !== this) seen.pop();
          if (typeof v === "object" && v !== null) {
            if (seen.includes(v)) return "[circular]";
            seen.push(v);
          }
          return typeof v === "bigint"
            ? `${v}n`
            : typeof v === "function"
              ? `[function ${v.name}]`
              : v instanceof Map
                ? Object.fromEntries(v)
                : v instanceof Set
                  ? [...v]
                  : ArrayBuffer.isView(v) && !(v instanceof DataView)
                    ? [...v].join(" ")
                    : Error.isError(v)
                      ? String(v)
                      : v;
        }) ?? String(x)
      );
    } catch {
      return String(x);
    }
  }
  return typeof x === "bigint" ? `${x}n` : String(x);
}
