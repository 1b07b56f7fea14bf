// The operators' page: asks one node for the whole mesh every two seconds, and shows what came.
//
// In order: numbers, what is wrong, words, the page, its sections, the conversation with the node. The first three are
// pure, and need no browser. All that nodes say is untrusted: it becomes text, never markup.

const POLL_MS = 2_000;
const PATIENCE_MS = 5_000;

/** Rates are of this time: five polls, and some time for a late one. Those of one poll jump about. */
const WINDOW_MS = 10_500;

/** If the next report is so much later (the page was hidden), the one before says nothing of now. */
const GAP_MS = 15_000;

/** The share of a limit at which it is nearly reached. */
const FULL = 0.8;

/** A stream with fewer failures, or a smaller share of them, is well. */
const FAILURES_MIN = 3;
const FAILED_SHARE_MIN = 0.01;

const EVENTS_SHOWN = 200;
const STUCK_SHOWN = 200;
const PAGE = 100;

/** The handler answered, and what it said is the caller's matter. */
const ANSWERS = ["ok", "invalid", "not_found", "conflict"];

// Numbers

/** By how much a counter grew; one that shrank began anew when its node restarted. */
export function delta(now = 0, then = 0) {
  return now < then ? now : now - then;
}

/** The reports of a node that its rates are made of, oldest first, after another one came. */
export function remember(past, report) {
  const last = past?.at(-1);
  if (!last || report.at < last.at || report.at - last.at > GAP_MS) return [report];
  if (report.at === last.at) return past;
  // It restarted: all its counters began at 0 after that.
  if (report.startedAt !== last.startedAt) return [{ at: last.at, startedAt: report.startedAt }, report];
  return [...past.filter((old) => report.at - old.at <= WINDOW_MS), report];
}

/**
 * The time in seconds that this share of the requests did not exceed, from counts by bucket (the last one counts those
 * over all bounds): linear inside a bucket, `Infinity` over the last bound, `null` without requests.
 */
export function percentile(counts, bounds, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let left = share * total;
  for (let i = 0; i < bounds.length; i++) {
    const from = i === 0 ? 0 : bounds[i - 1];
    if (counts[i] > 0 && left <= counts[i]) return from + ((bounds[i] - from) * left) / counts[i];
    left -= counts[i];
  }
  return Infinity;
}

/** How messages ended: failures as `[outcome, count]`, the most first, and the share that succeeded (`null` of none). */
export function outcomes(messages) {
  const count = (entries) => entries.reduce((sum, [, count]) => sum + count, 0);
  const all = Object.entries(messages).filter(([, count]) => count > 0);
  const failures = all.filter(([outcome]) => !ANSWERS.includes(outcome)).sort((a, b) => b[1] - a[1]);
  const [total, failed] = [count(all), count(failures)];
  return { all, total, failed, failures, share: total === 0 ? null : (total - failed) / total };
}

const traffic = () => ({ perSecond: 0, messages: {}, seconds: [], offers: 0, running: 0, concurrency: 0, waiting: 0, queue: 0, idle: 0 });

/**
 * What the reports say together. `pasts` has those of each node, as `remember` keeps them. Rates and counts are of
 * nodes with two reports (`measured`), the rest of all that answer.
 */
export function measure(overview, pasts) {
  const live = overview.nodes.filter((node) => node.state !== "gone");
  const answering = live.filter((node) => node.report);
  const mesh = { live: live.length, answering: answering.length, measured: 0, seconds: 0, all: traffic(), streams: new Map(), nodes: new Map(), state: null };
  mesh.bounds = answering[0]?.report.bounds ?? [];
  for (const { nodeId, report } of answering) {
    const past = pasts.get(nodeId) ?? [];
    addReport(mesh, nodeId, report, past.length > 1 ? past[0] : null);
  }
  return mesh;
}

function addReport(mesh, nodeId, report, base) {
  const seconds = base && (report.at - base.at) / 1000;
  // Nodes of another version may have other bounds; their times cannot be added up.
  const hasTimes = String(report.bounds) === String(mesh.bounds);
  const others = mesh.all.perSecond;
  const before = new Map(base?.streams?.map((stream) => [stream.stream, stream]));
  for (const stream of report.streams) {
    if (!mesh.streams.has(stream.stream)) mesh.streams.set(stream.stream, traffic());
    for (const sum of [mesh.streams.get(stream.stream), mesh.all]) {
      addNow(sum, stream);
      // The counts of a stream that comes back are not of this time.
      if (base && (!base.streams || before.has(stream.stream))) addSince(sum, stream, before.get(stream.stream), seconds, hasTimes);
    }
  }
  if (report.state) addState((mesh.state ??= { active: 0, lateEver: 0, since: {}, perSecond: {}, seconds: [] }), report.state, base, seconds, hasTimes);
  if (!base) return;
  mesh.measured += 1;
  mesh.seconds = Math.max(mesh.seconds, seconds);
  mesh.nodes.set(nodeId, {
    perSecond: mesh.all.perSecond - others,
    overloaded: delta(report.problems.overloaded, base.problems?.overloaded),
    dropped: delta(report.logLinesDropped, base.logLinesDropped),
    late: delta(report.state?.sendsLate, base.state?.sendsLate),
  });
}

const plus = (sums, key, more) => (sums[key] = (sums[key] ?? 0) + more);

function addNow(sum, stream) {
  if (stream.concurrency == null) return;
  sum.offers += 1;
  for (const gauge of ["running", "concurrency", "waiting", "queue", "idle"]) sum[gauge] += stream[gauge];
}

function addSince(sum, stream, before, seconds, hasTimes) {
  for (const [outcome, count] of Object.entries(stream.messages)) {
    const more = delta(count, before?.messages[outcome]);
    plus(sum.messages, outcome, more);
    sum.perSecond += more / seconds;
  }
  if (hasTimes) addBuckets(sum.seconds, stream.seconds, before?.seconds);
}

function addBuckets(sums, now, then = []) {
  now.forEach((count, i) => plus(sums, i, delta(count, then[i])));
}

function addState(sum, state, base, seconds, hasTimes) {
  sum.active += state.activeEntities;
  sum.lateEver += state.sendsLate;
  if (!base) return;
  const [now, then] = [state, base.state].map((state) => ({ ...state, ...state?.commits }));
  for (const name of ["committed", "fenced", "batches", "commitsInBatches", "sendsLate"]) {
    const more = delta(now[name], then[name]);
    plus(sum.since, name, more);
    plus(sum.perSecond, name, more / seconds);
  }
  if (hasTimes) addBuckets(sum.seconds, state.seconds, base.state?.seconds);
}

/** Plugins by stream: versions `on` each node, nodes by `ready` digest, the digest that most have, nodes by error. */
export function pluginsOf(overview) {
  const streams = new Map();
  for (const { nodeId, report } of overview.nodes) {
    for (const version of report?.plugins ?? []) {
      const { stream, file, digest, state } = version;
      if (!streams.has(stream)) streams.set(stream, { stream, file, isStateful: false, on: new Map(), ready: new Map(), errors: new Map() });
      const plugin = streams.get(stream);
      plugin.isStateful ||= version.isStateful;
      listIn(plugin.on, nodeId).push(version);
      if (state === "failed") listIn(plugin.errors, version.error ?? "").push(nodeId);
      if (state === "ready") listIn(plugin.ready, digest).push(nodeId);
    }
  }
  for (const plugin of streams.values()) plugin.usual = [...plugin.ready].sort(([, a], [, b]) => b.length - a.length)[0]?.[0];
  return [...streams.values()].sort((a, b) => (a.stream < b.stream ? -1 : 1));
}

/** Forgets the nodes that are not even gone any more. */
function forgetAllBut(map, { nodes }) {
  const known = new Set(nodes.map(({ nodeId }) => nodeId));
  for (const nodeId of map.keys()) if (!known.has(nodeId)) map.delete(nodeId);
}

function listIn(map, key) {
  if (!map.has(key)) map.set(key, []);
  return map.get(key);
}

/** Which nodes have an open or a half-open breaker towards each node. */
export function breakersOf(overview) {
  const towards = new Map(overview.nodes.map((node) => [node.nodeId, { open: new Set(), "half-open": new Set() }]));
  for (const node of overview.nodes) {
    towards.get(node.nodeId)[node.breaker]?.add(overview.self);
    for (const [to, breaker] of Object.entries(node.report?.breakers ?? {})) towards.get(to)?.[breaker]?.add(node.nodeId);
  }
  return towards;
}

/** The state of a node; `not answering` if it is ready and gives no report. */
export function stateOf({ state, report }) {
  return report || state !== "ready" ? state : "not answering";
}

// What is wrong

/** What to do about failures, by outcome. */
const ADVICE = {
  crashed: "The log of the node says why (handler-crashed).",
  deadline: "The handler did not end in time: see p99, and timeout_ms in its manifest.",
  limit: "The handler was stopped at a limit: the log of the node says which (handler-limit).",
  refused: "Nodes refuse while they start or leave, or their store does not work.",
  lost: "Nodes were lost with messages on them: see Events.",
};

/** What happens at a limit, and what to do. */
const LIMITS = {
  "Connections of clients": "Later ones wait. Add nodes, or raise --max-connections.",
  "Memory of bodies": "Past it requests get 503. Send smaller bodies or fewer at once, or add nodes.",
  Instances: "Past it requests get 503. Add nodes, or lower concurrency in manifests.",
  "Running messages": "Later ones wait for their turn. Add nodes, or raise concurrency in the manifest.",
  Queue: "Past it messages get 503. Add nodes, or raise concurrency or queue in the manifest.",
};

/**
 * What is not well, the worst first: `{key, isBad, what, todo, error, href}`. It is bad if messages fail for it, or a node
 * is missing; else it should be looked at. `error` is a text as the mesh has it.
 */
export function findings(overview, mesh) {
  const found = [];
  const add = (key, isBad, what, todo, more) => found.push({ key, isBad, what, todo, ...more });
  addAbsentNodes(add, overview);
  addStores(add, overview);
  addPlugins(add, pluginsOf(overview));
  addFailures(add, mesh);
  addLimits(add, overview);
  addCounted(add, mesh);
  const { stuck, stuckIsMore, problem } = overview.sends ?? {};
  if (problem) add("sends", false, "Stuck sends cannot be counted", "The store does not answer the node that was asked: see its log.", { error: problem });
  if (stuck > 0) add("stuck", true, `${stuckIsMore ? "More than " : ""}${many(stuck, "stuck send")}`, "They were tried 20 times in vain. See why, mend that, and retry.", { href: "#stuck" });
  return [...found.filter(({ isBad }) => isBad), ...found.filter(({ isBad }) => !isBad)];
}

/** One sentence: `{symbol, word, text}`. */
export function verdict(overview, found) {
  const count = (state) => overview.nodes.filter((node) => stateOf(node) === state).length;
  const parts = [`${many(count("ready"), "node")} ready`];
  for (const state of ["starting", "leaving", "not answering", "gone"]) if (count(state) > 0) parts.push(`${count(state)} ${state}`);
  if (overview.nodes.some((node) => node.report) && pluginsOf(overview).length === 0) parts.push("no plugins yet");
  if (found.length === 0) return { symbol: "✓", word: "Well", text: parts.join(", ") };
  return { symbol: "!", word: "Look", text: [`${many(found.length, "thing")} not well`, ...parts].join(", ") };
}

function addAbsentNodes(add, overview) {
  const { nodes, at } = overview;
  const gone = nodes.filter((node) => node.state === "gone");
  const since = ({ nodeId, since }) => nodeId + (since ? ` since ${clock(since)} (${ago(at - since)})` : "");
  if (gone.length > 0) add("gone", true, `Gone: ${list(gone.map(since))}`, "If you stopped it, all is well: the others have its keys. If not, look at its host and its log, and start it again under the same id.");
  for (const [problem, names] of namesBy(nodes, (node) => stateOf(node) === "not answering" && (node.problem ?? "no answer"))) {
    add(`silent ${problem}`, true, `${list(names)}: ${problem}`, "Its numbers are missing here. Look at its load and its log; restart it if it hangs, update it if it is older.");
  }
  const towards = breakersOf(overview);
  const cut = nodes.filter(({ nodeId, state }) => state !== "gone" && towards.get(nodeId).open.size > 0);
  const links = cut.map(({ nodeId, clusterAddr }) => `${list([...towards.get(nodeId).open])} → ${nodeId} (${clusterAddr})`);
  if (cut.length > 0) add("breakers", true, `Breaker open: ${list(links)}`, "Messages go to the next node in rank meanwhile. See whether the node behind the arrow runs and its cluster port can be reached.");
  if (nodes.every((node) => node.state !== "ready")) add("none", true, "No node is ready", "Messages are refused until one is. Their logs say what they wait for.");
}

function addStores(add, { nodes }) {
  for (const [error, names] of namesBy(nodes, (node) => node.report?.state?.problem)) {
    add(`store ${error}`, true, `Store unavailable on ${list(names)}`, "Messages of stateful streams get 503 there. See whether the database runs, can be reached and has room on its disk. Nodes try again by themselves.", { error });
  }
}

/** The names of nodes, by a text that some of them have. */
function namesBy(nodes, textOf) {
  const names = new Map();
  for (const node of nodes) if (textOf(node)) listIn(names, textOf(node)).push(node.nodeId);
  return names;
}

function addPlugins(add, plugins) {
  // By error: what is wrong with a store or a directory is so for many plugins.
  const byError = new Map();
  for (const { stream, errors } of plugins) for (const [error, nodes] of errors) listIn(byError, error).push({ stream, nodes });
  for (const [error, failed] of byError) {
    const nodes = [...new Set(failed.flatMap(({ nodes }) => nodes))];
    add(`plugin ${error}`, true, `Plugin ${list(failed.map(({ stream }) => stream))} failed on ${list(nodes)}`, "A version that ran before runs on. Mend the file; meshage-host check says whether a node would take it.", { error });
  }
  const skewed = plugins.filter((plugin) => plugin.ready.size > 1);
  if (skewed.length === 0) return;
  const versions = [...skewed[0].ready].map(([digest, nodes]) => `${short(digest)} on ${list(nodes)}`);
  const what = skewed.length === 1 ? `${skewed[0].stream}: ${versions.join("; ")}` : list(skewed.map(({ stream }) => stream));
  add("skew", false, `Nodes run different versions of ${what}`, "Fine while you roll out a version. If it stays, put the same file on every node.", { href: "#plugins" });
}

function addFailures(add, mesh) {
  // Those that are overloaded have a line of their own.
  const streams = [...mesh.streams].map(([name, { messages }]) => ({ name, ...outcomes({ ...messages, overloaded: 0 }) }));
  const failing = streams.filter(isFailing).sort((a, b) => b.failed - a.failed);
  if (failing.length === 0) return;
  const texts = failing.map(({ name, total, failed, failures }) => `${name} ${percent(failed / total)} of ${number(total)} (${counts(failures)})`);
  add("failing", true, `Requests failed in ${span(mesh)}: ${list(texts)}`, ADVICE[failing[0].failures[0][0]] ?? "The log of the nodes says why.", { href: "#streams" });
}

const isFailing = ({ failed, total }) => failed >= FAILURES_MIN && failed / total >= FAILED_SHARE_MIN;

function addLimits(add, { nodes }) {
  const limits = new Map();
  const check = (limit, where, used, max, say = number) => {
    if (used / max >= FULL) listIn(limits, limit).push(`${where} ${say(used)} of ${say(max)} (${percent(used / max)})`);
  };
  for (const { nodeId, report } of nodes) {
    if (!report) continue;
    const { clientConnections, bodies, instances, streams } = report;
    check("Connections of clients", nodeId, clientConnections.open, clientConnections.max);
    check("Memory of bodies", nodeId, bodies.bytes, bodies.max, bytes);
    check("Instances", nodeId, instances.made, instances.max);
    for (const { stream, running, concurrency, waiting, queue } of streams) {
      // A small limit is reached all the time; it matters when messages wait.
      if (waiting > 0) check("Running messages", `${stream} on ${nodeId}`, running, concurrency);
      check("Queue", `${stream} on ${nodeId}`, waiting, queue);
    }
  }
  for (const [limit, uses] of limits) add(limit, false, `${limit} nearly at the limit: ${list(uses)}`, LIMITS[limit]);
}

function addCounted(add, mesh) {
  const check = (key, isBad, what, todo) => {
    const nodes = [...mesh.nodes].filter(([, node]) => node[key] > 0).map(([nodeId, node]) => `${number(node[key])} at ${nodeId}`);
    if (nodes.length > 0) add(key, isBad, `${what} in ${span(mesh)}: ${list(nodes)}`, todo);
  };
  check("overloaded", true, "Refused as overloaded", "Send less at once, add nodes, or raise concurrency and queue in the manifest (Streams shows whose).");
  check("late", false, "Timers or sends a second or more late", "A node or the store is slow, or was away: see Nodes, and Commit p99.");
  check("dropped", false, "Log lines dropped", "Whoever reads the node's log is too slow: see to that, or log less (--log).");
}

// Words

const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const times = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const number = (value) => integers.format(value);
const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;
const list = (names, max = 3) => (names.length > max ? `${names.slice(0, max).join(", ")} and ${names.length - max} more` : names.join(", "));
const counts = (entries) => entries.map(([outcome, count]) => `${outcome.replaceAll("_", " ")} ${number(count)}`).join(", ");
const lines = (...texts) => texts.filter(Boolean).join("\n");
const short = (digest) => digest?.slice(0, 8) ?? "";
const span = (mesh) => `${Math.round(mesh.seconds)} s`;
const answeringNodes = (mesh) => (mesh.answering === mesh.live ? many(mesh.live, "node") : `${mesh.answering} of ${many(mesh.live, "node")}`);

/** Something a second. */
export function rate(value) {
  if (value === 0 || value >= 10) return number(value);
  return value < 0.1 ? "< 0.1" : value.toFixed(1);
}

/** Never rounded up: 100 % are all. */
export function percent(share) {
  const scale = share > 0.99 ? 100 : 10;
  return `${Math.floor(share * 100 * scale + 1e-9) / scale} %`;
}

/** A time of `percentile`. */
export function duration(seconds, bounds) {
  if (seconds === null) return "–";
  if (seconds === Infinity) return `> ${duration(bounds.at(-1))}`;
  const [value, unit] = seconds < 0.001 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return `${rounded(value)} ${unit}`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10));
  return `${rounded(count / 1024 ** power)} ${units[power]}`;
}

const rounded = (value) => (value >= 10 ? Math.round(value) : Math.round(value * 10) / 10);

export function ago(ms) {
  const [s, min, h, d] = [1e3, 6e4, 36e5, 864e5].map((unit) => Math.floor(Math.max(0, ms) / unit));
  if (d > 0) return `${d} d ${h % 24} h`;
  if (h > 0) return `${h} h ${min % 60} min`;
  return min > 0 ? `${min} min` : `${s} s`;
}

/** HH:MM:SS, after the day if it is not today. */
function clock(at) {
  const day = days.format(at);
  return (day === days.format() ? "" : `${day} `) + times.format(at);
}

/** JSON whose numbers stay as they are written: those of 64 bits do not fit into JavaScript's. */
export function parseExactly(text) {
  const keep = (_, value, context) => (typeof value === "number" && context && String(value) !== context.source ? JSON.rawJSON(context.source) : value);
  return JSON.parse(text, keep);
}

// The page

const byId = (id) => document.getElementById(id);

/** Writes what has changed. Writing the same again would end a selection, and be read out. */
function write(node, text, tone = "", title = "") {
  if (node.shown !== text) node.textContent = node.shown = text;
  if ((node.tone ?? "") !== tone) node.dataset.tone = node.tone = tone;
  if ((node.titled ?? "") !== title) node.title = node.titled = title;
}

/** Each value is a text, or the arguments of `write`. */
function fill(nodes, values) {
  values.forEach((value, i) => write(nodes[i], ...[value].flat()));
}

const on = (target, event, act) => target.addEventListener(event, act);

function onSubmit(form, act) {
  on(form, "submit", (event) => {
    event.preventDefault();
    act(form.elements);
  });
}

function hide(node, isHidden) {
  if (node.hidden !== isHidden) node.hidden = isHidden;
}

function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function makeButton(className, text, act) {
  const button = make("button", className, text);
  button.type = "button";
  on(button, "click", act);
  return button;
}

/**
 * Keeps a child of `parent`, after the first `skip`, for each item by its key. `build` makes its view once, `{root, show}`,
 * and `show` writes the item into it: so focus, selection and what is open stay.
 */
function keyed(parent, keyOf, build, skip = 0) {
  const views = new Map();
  return (items) => {
    const keys = new Set(items.map(keyOf));
    for (const [key, { root }] of views) {
      if (keys.has(key)) continue;
      if (root.contains(document.activeElement)) parent.closest("details")?.firstElementChild.focus();
      root.remove();
      views.delete(key);
    }
    let next = parent.children[skip] ?? null;
    for (const item of items) {
      const key = keyOf(item);
      if (!views.has(key)) views.set(key, build(item));
      const { root, show } = views.get(key);
      if (root === next) next = next.nextElementSibling;
      else parent.insertBefore(root, next);
      show?.(item);
    }
  };
}

/** A row: its name, and cells of these classes. `n` are figures, `cut` are long names; those are texts inside a cell. */
function row(kinds, name = make("span", "cut")) {
  const head = make("th", "", name);
  head.scope = "row";
  const root = make("tr", "", head);
  const cells = kinds.map((kind) => {
    const cell = root.appendChild(make("td", kind === "cut" ? "" : kind));
    return kind === "cut" ? cell.appendChild(make("span", kind)) : cell;
  });
  return { root, name, cells };
}

function table(section, keyOf, build) {
  const showRows = keyed(section.querySelector("tbody"), keyOf, build);
  const caption = section.querySelector("caption span");
  return (items, text) => (showRows(items), write(caption, text));
}

/** Figures with their names: `[name, ...arguments of write]`. */
function figures(dl) {
  return keyed(dl, ([name]) => name, ([name]) => {
    const dd = make("dd");
    return { root: make("div", "", make("dt", "", name), dd), show: ([, ...figure]) => write(dd, ...figure) };
  });
}

/** What the filter has. */
let wanted = "";
const isWanted = (...texts) => wanted === "" || texts.some((text) => text?.toLowerCase().includes(wanted));

// The verdict

function verdictSection() {
  const [symbol, sentence] = byId("verdict").children;
  const showFindings = keyed(byId("findings"), (found) => found.key, findingView);
  const showSums = figures(byId("sums"));
  const say = (sign, tone, text, basis) => {
    write(symbol, sign, tone);
    write(sentence, text);
    write(byId("basis"), basis);
  };

  return {
    show(overview, mesh) {
      const found = findings(overview, mesh);
      const { symbol, word, text } = verdict(overview, found);
      const tone = found.some(({ isBad }) => isBad) ? "bad" : found.length > 0 ? "warn" : "ok";
      const rates = mesh.measured > 0 ? `Rates, shares and times are of the last ${span(mesh)}.` : "Rates come with the second report.";
      say(symbol, tone, `${word}: ${text}`, `Sums of ${answeringNodes(mesh)}, as ${overview.self} saw them at ${clock(overview.at)}. ${rates}`);
      document.title = `${symbol} ${overview.clusterId} – meshage`;
      showFindings(found);
      const { perSecond, messages, seconds, running, waiting } = mesh.all;
      showSums([
        ["Requests/s", measured(mesh, rate(perSecond))],
        ["Succeeded", ...succeeded(mesh, messages)],
        ...percentiles(mesh, seconds).map((time, i) => [PERCENTILES[i], time]),
        ["Running", number(running)],
        ["Waiting", number(waiting)],
      ]);
    },
    fail(text, basis) {
      say("?", "bad", text, basis);
      document.title = "? meshage";
    },
  };
}

const PERCENTILES = ["p50", "p95", "p99"];
const measured = (mesh, figure) => (mesh.measured > 0 ? figure : "…");
const percentiles = (mesh, seconds) => [0.5, 0.95, 0.99].map((share) => measured(mesh, duration(percentile(seconds, mesh.bounds, share), mesh.bounds)));

function succeeded(mesh, messages) {
  const ended = outcomes(messages);
  return [measured(mesh, ended.share === null ? "–" : percent(ended.share)), isFailing(ended) ? "bad" : "", counts(ended.all)];
}

function used(used, max, say = number) {
  const isFull = used / max >= FULL;
  return [`${isFull ? "! " : ""}${say(used)} / ${say(max)}`, isFull ? "warn" : "", max > 0 ? percent(used / max) : ""];
}

function findingView() {
  const [symbol, what, error, text, link] = [make("span", "symbol"), make("p", "what"), make("pre"), make("span"), make("a", "", "Show")];
  // It may be long, and is scrolled then.
  error.tabIndex = 0;
  return {
    root: make("li", "", symbol, make("div", "", what, error, make("p", "", text, " ", link))),
    show(found) {
      write(symbol, found.isBad ? "✗" : "!", found.isBad ? "bad" : "warn");
      write(what, found.what);
      write(text, found.todo);
      write(error, found.error ?? "");
      hide(error, !found.error);
      hide(link, !found.href);
      link.href = found.href ?? "";
    },
  };
}

// Nodes

const STATES = {
  ready: ["✓ ready", "ok"],
  starting: ["… starting"],
  leaving: ["→ leaving"],
  "not answering": ["✗ no answer", "bad"],
  gone: ["✗ gone", "bad"],
};

function nodesSection() {
  const showTable = table(byId("nodes"), ({ node }) => node.nodeId, nodeRow);
  return (overview, mesh) => {
    const towards = breakersOf(overview);
    const nodes = overview.nodes.filter((node) => isWanted(node.nodeId, node.httpAddr, node.state));
    showTable(nodes.map((node) => ({ node, overview, breakers: towards.get(node.nodeId), own: mesh.nodes.get(node.nodeId) })), `Figures of ${answeringNodes(mesh)}.`);
  };
}

function nodeRow() {
  const { root, name, cells } = row(["", "", "n", "n", "n", "n", "n", "n", "n", ""]);
  return {
    root,
    show({ node, overview, breakers, own }) {
      const { nodeId, isSelf, since, report, problem, httpAddr, clusterAddr } = node;
      write(name, nodeId, "", lines(nodeId, isSelf && "shows this page", httpAddr && `HTTP ${httpAddr}`, clusterAddr && `cluster ${clusterAddr}`));
      root.classList.toggle("self", isSelf);
      const is = stateOf(node);
      const [word, tone] = STATES[is] ?? [is];
      const isAlone = overview.nodes.length === 1 || is === "gone";
      fill(cells, [
        [word, tone, problem ?? (since ? `since ${clock(since)}` : "")],
        isAlone ? "–" : reachedBy(breakers),
        ...(report ? reportCells(report, own) : Array(8).fill("–")),
      ]);
    },
  };
}

function reachedBy(breakers) {
  const [open, halfOpen] = [[...breakers.open], [...breakers["half-open"]]];
  if (open.length > 0) return [`✗ not by ${list(open, 2)}`, "bad", open.join("\n")];
  return halfOpen.length > 0 ? [`… half-open at ${list(halfOpen, 2)}`, "", halfOpen.join("\n")] : ["✓ by all", "ok"];
}

function reportCells(report, own) {
  const { clientConnections, bodies, instances, logLinesDropped, startedAt } = report;
  return [
    own ? rate(own.perSecond) : "…",
    used(clientConnections.open, clientConnections.max),
    used(bodies.bytes, bodies.max, bytes),
    used(instances.made, instances.max),
    number(report.peerConnections),
    own?.dropped > 0 ? [`! ${number(logLinesDropped)}`, "warn"] : number(logLinesDropped),
    [ago(report.at - startedAt), "", `since ${clock(startedAt)}`],
    report.version,
  ];
}

// Streams

function streamsSection() {
  const showTable = table(byId("streams"), ({ name }) => name, streamRow);
  const showNames = keyed(byId("stream-names"), String, (name) => ({ root: new Option(name) }));
  return (mesh) => {
    const names = [...mesh.streams.keys()].sort();
    showNames(names);
    const shown = names.filter((name) => isWanted(name));
    const text = `Sums of ${answeringNodes(mesh)}. What handlers answer counts as succeeded: ok, invalid, not found, conflict. A request that went on to the next node counts at each.`;
    showTable(shown.map((name) => ({ name, mesh, sum: mesh.streams.get(name) })), names.length > 0 ? text : NOTHING_YET);
  };
}

const NOTHING_YET = "Nothing yet. Put a component into the plugins directory of the nodes (--plugins), and it is live.";

function streamRow() {
  const { root, name, cells } = row(["n", "n", "n", "n", "n", "n", "n", "n", "wide"]);
  return {
    root,
    show({ name: stream, mesh, sum }) {
      const { failures } = outcomes(sum.messages);
      const offered = (value) => (sum.offers > 0 ? value : ["–", "", "No node that answers offers it"]);
      write(name, stream, "", stream);
      fill(cells, [
        measured(mesh, rate(sum.perSecond)),
        succeeded(mesh, sum.messages),
        ...percentiles(mesh, sum.seconds),
        offered(`${number(sum.running)} / ${number(sum.concurrency)}`),
        offered(used(sum.waiting, sum.queue)),
        offered(number(sum.idle)),
        measured(mesh, counts(failures) || "–"),
      ]);
    },
  };
}

// Plugins

function pluginsSection() {
  const section = byId("plugins");
  const showTable = table(section, ({ plugin }) => plugin.stream, pluginRow);
  const showHead = keyed(section.querySelector("thead tr"), ({ nodeId }) => nodeId, () => {
    const name = make("span", "cut");
    const root = make("th", "", name);
    root.scope = "col";
    return { root, show: ({ nodeId, isHidden }) => (write(name, nodeId, "", nodeId), hide(root, isHidden)) };
  }, 2);
  return (overview, mesh) => {
    const plugins = pluginsOf(overview);
    const live = overview.nodes.filter((node) => node.state !== "gone");
    // The filter is for rows and for columns; where it finds none of one, all of them are shown.
    const rows = plugins.filter((plugin) => isWanted(plugin.stream));
    const isOfColumns = live.some((node) => isWanted(node.nodeId));
    const shown = rows.length === 0 && isOfColumns ? plugins : rows;
    const nodes = live.map((node) => ({ ...node, isHidden: isOfColumns && !isWanted(node.nodeId) }));
    const text = `The beginning of each version's digest, and its state, on ${answeringNodes(mesh)}. What differs is not the version that most nodes have.`;
    showHead(nodes);
    showTable(shown.map((plugin) => ({ plugin, nodes })), plugins.length > 0 ? text : NOTHING_YET);
  };
}

function pluginRow() {
  const { root, name, cells } = row([""]);
  const showCells = keyed(root, ({ nodeId }) => nodeId, () => {
    const cell = make("td");
    return { root: cell, show: ({ versions, isHidden }) => (showVersions(cell, versions), hide(cell, isHidden)) };
  }, 2);
  return {
    root,
    show({ plugin, nodes }) {
      write(name, plugin.stream, "", lines(plugin.stream, plugin.file, plugin.isStateful && "stateful"));
      write(cells[0], ...onAllNodes(plugin));
      showCells(nodes.map((node) => ({ nodeId: node.nodeId, isHidden: node.isHidden, versions: versionsOn(node, plugin) })));
    },
  };
}

function onAllNodes({ ready, errors }) {
  const failed = new Set([...errors.values()].flat()).size;
  if (failed > 0) return [`✗ failed on ${failed}`, "bad"];
  if (ready.size > 1) return [`! ${ready.size} versions`, "warn"];
  return ready.size === 1 ? [`✓ same on ${[...ready.values()][0].length}`, "ok"] : ["… not ready"];
}

/** What a node has of a stream: the arguments of `write` for each version. */
function versionsOn(node, plugin) {
  if (!node.report) return [["no answer", "quiet", node.problem ?? ""]];
  const versions = plugin.on.get(node.nodeId) ?? [];
  if (versions.length === 0) return [["–", "quiet", "not on this node"]];
  return versions.map(({ digest, state, error }) => {
    const title = lines(digest, state, error);
    if (state === "failed") return [`✗ failed ${short(digest)}`, "bad", title];
    if (state === "draining") return [`… ${short(digest)} draining`, "quiet", title];
    return digest === plugin.usual ? [`✓ ${short(digest)}`, "", title] : [`! ${short(digest)} differs`, "warn", title];
  });
}

function showVersions(cell, versions) {
  if (cell.shown === String(versions)) return;
  cell.shown = String(versions);
  cell.replaceChildren(...versions.map(() => make("div")));
  fill([...cell.children], versions);
}

// Entities

function entitiesSection() {
  const showState = figures(byId("state"));
  const showStuck = stuckSends();
  const browser = browse();
  const show = (overview, mesh) => {
    const streams = pluginsOf(overview).filter((plugin) => plugin.isStateful).map((plugin) => plugin.stream);
    const hasState = mesh.state !== null || streams.length > 0 || overview.sends !== null;
    hide(byId("with-state"), !hasState);
    write(byId("stores"), ...(hasState ? stores(overview) : ["No stream has state."]));
    showState(mesh.state ? stateFigures(mesh) : []);
    showStuck(overview.sends);
    browser.showStreams(streams);
  };
  return { show, filter: browser.filter };
}

function stores({ nodes }) {
  const opened = nodes.filter((node) => node.report?.state);
  const broken = opened.filter((node) => node.report.state.problem).map((node) => node.nodeId);
  const names = [...new Set(opened.map((node) => node.report.state.store))].join(" and ");
  if (opened.length === 0) return ["No node that answers has opened a store."];
  return broken.length > 0 ? [`✗ ${names}: unavailable on ${list(broken)}`, "bad"] : [`✓ ${names}: works on ${many(opened.length, "node")}`];
}

function stateFigures(mesh) {
  const { active, lateEver, since, perSecond, seconds } = mesh.state;
  const a = (name) => measured(mesh, rate(perSecond[name] ?? 0));
  return [
    ["Active", number(active), "", "Entities in memory"],
    ["Commits/s", a("committed")],
    ["Commits per batch", measured(mesh, (since.batches > 0 ? (since.commitsInBatches / since.batches).toFixed(1) : "–"))],
    ["Fenced/s", a("fenced"), "", "Commits that came to nothing, as another node was first"],
    ...percentiles(mesh, seconds).map((time, i) => [`Commit ${PERCENTILES[i]}`, time, "", "How long the store took for one batch"]),
    ["Late", number(lateEver), "", "Timers and sends that were a second or more late since the nodes' start"],
  ];
}

function stuckSends() {
  const details = byId("stuck");
  const [summary, retryAll, answer] = ["summary", "button", ".answer"].map((selector) => details.querySelector(selector));
  const showTable = table(details, ({ id }) => id, stuckRow);
  let count = 0;

  const load = async () => {
    const body = await ask(`/sends?stuck=true&limit=${STUCK_SHOWN}`).catch((error) => write(answer, error.message, "bad"));
    if (body) showTable(body.sends, `Messages of handlers, and timers, that were tried 20 times in vain.${body.next == null ? "" : ` The first ${STUCK_SHOWN}.`}`);
  };
  on(details, "toggle", () => details.open && load());
  on(retryAll, "click", async () => {
    await retry("/sends/retry", answer);
    load();
  });
  return (sends) => {
    const { stuck = 0, stuckIsMore, problem } = sends ?? {};
    write(summary, `Stuck sends: ${!sends || problem ? "not known" : (stuckIsMore ? "more than " : "") + number(stuck)}`, stuck > 0 ? "bad" : "");
    if (details.open && stuck !== count) load();
    count = stuck;
  };
}

function stuckRow({ id }) {
  const { root, name, cells } = row(["cut", "n", "wide", "wide"]);
  const answer = make("span", "answer");
  const button = makeButton("", "Retry", () => retry(path("sends", id, "retry"), answer));
  answer.setAttribute("role", "status");
  cells[3].append(button, " ", answer);
  return {
    root,
    show({ from, to, timer, tries, problem, due }) {
      const sender = `${from.stream}/${from.partitionKey}`;
      const receiver = `${to.stream}/${to.partitionKey}${timer == null ? "" : ` (timer ${timer})`}`;
      fill([name, ...cells], [[sender, "", sender], [receiver, "", receiver], [number(tries), "", `due ${due}`], problem ?? "–"]);
      button.setAttribute("aria-label", `Retry ${sender} to ${receiver}`);
    },
  };
}

/** Has sends delivered again, and says beside the button how that went. */
async function retry(path, answer) {
  const body = await askFor(answer, path, { method: "POST" });
  if (body) write(answer, `✓ ${number(body.retried)} delivered again`, "ok");
}

function browse() {
  const [form, pane] = [byId("browse"), byId("keys")];
  const { stream: select, prefix } = form.elements;
  const answer = form.querySelector(".answer");
  const [note, keys, more] = pane.children;
  const showStreams = keyed(select, String, (name) => ({ root: new Option(name) }));
  const showEntity = entityPane();
  let shown = { keys: [] };

  const showKeys = keyed(keys, (key) => `${shown.stream}/${key}`, (key) => {
    const button = makeButton("link cut", key, () => showEntity(shown.stream, key));
    button.title = key;
    return { root: make("li", "", button) };
  });
  const filter = () => {
    showKeys(shown.keys.filter((key) => isWanted(key)));
    write(note, `${many(shown.keys.length, "key")} of ${shown.stream}${shown.next == null ? "" : ", and more"}.`);
  };
  const load = async (stream, prefix, before, after) => {
    const body = await askFor(answer, `${path("entities", stream)}?${new URLSearchParams({ prefix, after, limit: PAGE })}`);
    if (!body) return;
    shown = { stream, prefix, keys: [...before, ...body.entities.map((entity) => entity.partitionKey)], next: body.next };
    hide(pane, false);
    hide(more, body.next == null);
    filter();
  };
  onSubmit(form, () => load(select.value, prefix.value, [], ""));
  on(more, "click", () => load(shown.stream, shown.prefix, shown.keys, shown.next));
  return { showStreams, filter: () => pane.hidden || filter() };
}

function entityPane() {
  const pane = byId("entity");
  const [title, answer, note, values, more] = pane.children;
  const showValues = keyed(values, ({ name }) => name, valueView);
  let shown;

  const load = async (stream, key, before, after) => {
    const body = await askFor(answer, `${path("entities", stream, key)}?${new URLSearchParams({ after, limit: PAGE })}`, {}, parseExactly);
    if (body === undefined) return;
    shown = { ...body, values: [...before, ...(body?.values ?? [])] };
    write(note, body ? `Owner: ${body.owner ?? "nobody"}. Last commit: ${body.commitId}.` : "");
    showValues(shown.values);
    hide(more, shown.next == null);
  };
  on(more, "click", () => load(shown.stream, shown.partitionKey, shown.values, shown.next));
  return async (stream, key) => {
    hide(pane, false);
    write(title, `${stream}/${key}`);
    await load(stream, key, [], "");
    title.focus({ preventScroll: true });
    pane.scrollIntoView({ block: "nearest" });
  };
}

function valueView() {
  const [name, note, content] = [make("span"), make("span", "note"), make("pre")];
  content.tabIndex = 0;
  return {
    root: make("article", "", make("h4", "", name, " ", note), content),
    show(value) {
      const kind = ["json", "text", "base64"].find((kind) => kind in value);
      const text = kind === "json" ? JSON.stringify(value.json, null, 2) : (value[kind] ?? "Not shown, as it is longer than 64 KiB.");
      fill([name, note, content], [value.name, bytes(value.bytes) + (kind ? `, ${kind}` : ""), text]);
    },
  };
}

// The owner of a key

function ownerSection() {
  const [form, answer, ranking] = ["form", ".answer", "ol"].map((selector) => byId("owner").querySelector(selector));
  onSubmit(form, async ({ stream, key }) => {
    const body = await askFor(answer, path("cluster", "owner", stream.value, key.value));
    if (body === undefined) return;
    if (body) write(answer, `${body.owner} owns ${body.stream}/${body.partitionKey}. If it cannot be reached, messages go to the next in rank:`);
    ranking.replaceChildren(...(body?.ranking ?? []).map((node) => make("li", "", node)));
  });
}

// Events

const LEVELS = { ERROR: ["✗ error", "bad"], WARN: ["! warning", "warn"], INFO: ["· info", "quiet"] };

function eventsSection() {
  const showTable = table(byId("events"), ([key]) => key, eventRow);
  // Also of nodes that give no answer any more: theirs are the ones that matter.
  const byNode = new Map();
  let shown = "";
  return (overview) => {
    for (const { nodeId, report } of overview.nodes) if (report) byNode.set(nodeId, report.events);
    forgetAllBut(byNode, overview);
    const now = [wanted, ...[...byNode].map(([node, events]) => [node, events.length, events.at(-1)?.at])].join("\n");
    if (now === shown) return;
    shown = now;
    // The same one may be there twice.
    const all = new Map();
    for (const [node, events] of byNode) events.forEach((event, place) => all.set([node, event.at, event.event, event.text].join("\n"), { ...event, node, place }));
    const matching = [...all].filter(([key, { level }]) => isWanted(key, LEVELS[level]?.[0] ?? level));
    const newest = matching.sort(([, a], [, b]) => b.at - a.at || b.place - a.place).slice(0, EVENTS_SHOWN);
    showTable(newest, `The newest first: ${number(newest.length)} of ${number(all.size)} that the nodes remember.`);
  };
}

function eventRow([, { at, node, level, event, text }]) {
  const { root, name, cells } = row(["cut", "", "cut", "text"], make("time"));
  fill([name, ...cells], [[clock(at), "", new Date(at).toISOString()], [node, "", node], LEVELS[level] ?? level, [event, "", event], text]);
  name.dateTime = name.title;
  return { root };
}

// The conversation with the node

let showLogin = () => {};

/** Whether the node knows this page by a login. */
let hasSession = false;

/** Asks the node. What is no success is thrown, with what the node said and its status. A read without a login shows it. */
async function ask(path, options = {}, parse = JSON.parse) {
  let response, text;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE_MS), ...options });
    text = await response.text();
  } catch {
    throw new Error("The node gives no answer.");
  }
  if (response.headers.has("meshage-session")) hasSession = response.headers.get("meshage-session") === "yes";
  if (response.ok) return text === "" ? {} : parse(text);
  if (response.status === 401 && !options.method) showLogin();
  throw Object.assign(new Error(said(text) || `status ${response.status}`), { status: response.status });
}

/**
 * Asks for what somebody wants to see beside `answer`, which says so if it does not come: `null`; or `undefined` if
 * something else was asked for there meanwhile.
 */
async function askFor(answer, ...what) {
  const turn = (answer.turn = (answer.turn ?? 0) + 1);
  write(answer, "…");
  const [body, text] = await ask(...what).then((body) => [body, ""], (error) => [null, error.message]);
  if (turn !== answer.turn) return undefined;
  write(answer, text, "bad");
  return body;
}

const path = (...names) => names.map((name) => `/${encodeURIComponent(name)}`).join("");

/** The text of an error: of `{"error": …}`, or as it is. */
function said(text) {
  try {
    return String(JSON.parse(text).error ?? text);
  } catch {
    return text.trim();
  }
}

function start() {
  const well = verdictSection();
  const [showNodes, showStreams, showPlugins, entities, showEvents] = [nodesSection(), streamsSection(), pluginsSection(), entitiesSection(), eventsSection()];
  const login = byId("login");
  const pasts = new Map();
  let overview = null;
  let failedSince = null;
  let isAsking = false;
  let timer;

  const show = () => {
    if (!overview) return;
    const mesh = measure(overview, pasts);
    if (failedSince === null) well.show(overview, mesh);
    showNodes(overview, mesh);
    showStreams(mesh);
    showPlugins(overview, mesh);
    entities.show(overview, mesh);
    showEvents(overview);
  };
  const showPage = (isIn) => {
    for (const id of ["page", "sections", "filter"]) hide(byId(id), !isIn);
    hide(login, isIn);
  };
  showLogin = () => {
    if (!login.hidden) return;
    showPage(false);
    hide(byId("log-out"), true);
    document.title = "meshage";
    login.querySelector("[type=password]").focus();
  };

  const take = (answer) => {
    overview = answer;
    failedSince = null;
    for (const { nodeId, report } of overview.nodes) if (report) pasts.set(nodeId, remember(pasts.get(nodeId), report));
    forgetAllBut(pasts, overview);
    hide(byId("log-out"), !hasSession);
    const where = `${overview.clusterId === "meshage" ? "" : `${overview.clusterId}, `}seen from ${overview.self}`;
    write(byId("mesh"), where, "", where);
    showPage(true);
    show();
  };
  const fail = (error) => {
    if (error.status === 401) return;
    failedSince ??= Date.now();
    showPage(true);
    const what = error.status ? `refuses the page: ${error.message}` : `does not answer since ${clock(failedSince)}`;
    well.fail(`This node ${what}`, `${overview ? `What is below is from ${clock(overview.at)}. ` : ""}See whether it runs, or open the page of another node. It is asked again every two seconds.`);
  };

  const poll = async () => {
    clearTimeout(timer);
    if (isAsking || document.visibilityState !== "visible") return;
    isAsking = true;
    const began = performance.now();
    const answer = await ask("/overview").catch((error) => void fail(error));
    isAsking = false;
    // With the login on the screen there is nothing to ask for.
    if (answer || login.hidden) timer = setTimeout(poll, Math.max(0, POLL_MS - (performance.now() - began)));
    if (answer) take(answer);
    document.body.classList.toggle("old", failedSince !== null);
  };

  ownerSection();
  startFilter(() => {
    show();
    entities.filter();
  });
  startLogin(login, poll);
  on(byId("findings"), "click", ({ target }) => {
    if (target.hash === "#stuck") byId("stuck").open = true;
  });
  on(document, "visibilitychange", poll);
  poll();
}

function startFilter(changed) {
  const field = byId("filter");
  const set = (text) => {
    field.value = text;
    wanted = text.trim().toLowerCase();
    changed();
  };
  on(field, "input", () => set(field.value));
  on(document, "keydown", (event) => {
    const isTyping = event.target.closest("input, select") !== null;
    if (event.key === "/" && !isTyping && !field.hidden) {
      event.preventDefault();
      field.select();
    } else if (event.key === "Escape" && (!isTyping || event.target === field)) {
      event.preventDefault();
      if (wanted === "") field.blur();
      else set("");
    }
  });
}

function startLogin(login, poll) {
  const form = login.querySelector("form");
  const answer = login.querySelector(".answer");
  onSubmit(form, async ({ token }) => {
    const body = new URLSearchParams({ token: token.value.trim() });
    if (await askFor(answer, "/login", { method: "POST", body })) {
      token.value = "";
      poll();
    } else token.select();
  });
  on(byId("log-out"), "click", async () => {
    // So that nothing of what was read stays in the page.
    if (await askFor(byId("log-out-answer"), "/logout", { method: "POST" })) location.reload();
  });
}

if (typeof document !== "undefined") start();
