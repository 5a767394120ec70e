// Asks /status.json every two seconds and shows what it says. Only text nodes are written: nothing
// that the service says can become markup.
"use strict";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;
const USERS_EVERY_MS = 10000;
const SENTENCES = {
  "ready": "The service is well.",
  "not ready": "The service does not do its work right now:",
  "ill": "The service is ill and should be restarted:",
};
const CHARTS = [
  ["events", "Events per second"], ["requests", "Requests per second"],
  ["digests", "Digests per second"], ["behind", "Messages behind"],
];
const LOSSES = {
  reader: "Dropped by the listener under load",
  core_connection: "Connections lost (what was missed is unknown)",
  stream_deleted: "Deleted in the stream unread",
  stream_unread_lost: "Gone from the stream",
  rejection_queue: "Rejected messages not published, the publisher being behind",
  rejection_publisher: "Rejected messages that the server did not take",
};
const CHANGES = {
  input_recreated: "Input stream recreated",
  input_truncated: "Input stream truncated",
  output_recreated: "Output stream recreated",
  output_truncated: "Output stream truncated",
};

const CONNECTIONS = {
  listener: "Reading", publisher: "Publishing", service_api: "Service API",
};

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const small = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const count = (value) => (value < 100 ? small : number).format(value);

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes, unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return withUnit(unit === 0 ? value : small.format(value), units[unit]);
}

function duration(seconds) {
  if (seconds < 1) return withUnit(number.format(seconds * 1000), "ms");
  if (seconds < 120) return withUnit(small.format(seconds), "s");
  if (seconds < 7200) return withUnit(Math.floor(seconds / 60), "min");
  if (seconds < 172800) return withUnit(Math.floor(seconds / 3600), "h");
  return withUnit(Math.floor(seconds / 86400), "days");
}

// A number and its unit stay on one line.
const withUnit = (value, unit) => `${value}\u00a0${unit}`;
// In UTC, as the log has it; a day is named unless it is today.
const clock = (date) => {
  const [day, time] = date.toISOString().split("T");
  const today = new Date().toISOString().startsWith(day);
  return `${today ? "" : `${day} `}${time.slice(0, 8)} UTC`;
};

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Unchanged text is not written again, or a screen reader would read it out every two seconds.
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function pairs(id, entries) {
  byId(id).replaceChildren(...entries.map(([name, value, bad]) => {
    const row = element("div", undefined, bad ? "bad" : "");
    row.append(element("dt", name), element("dd", value));
    return row;
  }));
}

// Those that are not 0, by their names for people; whether there are any.
function showBad(id, counts, names) {
  const bad = Object.entries(counts).filter(([, value]) => value > 0);
  pairs(id, bad.map(([key, value]) => [names[key] ?? key, count(value), true]));
  return bad.length > 0;
}

function rows(id, lines) {
  byId(id).tBodies[0].replaceChildren(...lines.map((cells) => {
    const row = element("tr");
    cells.forEach(([text, kind], index) => {
      const cell = element(index === 0 ? "th" : "td", text, kind);
      if (index === 0) cell.scope = "row";
      row.append(cell);
    });
    return row;
  }));
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function chart(name, title, values, now, stepSeconds, unknown) {
  const width = 120, height = 40;
  const most = Math.max(1, ...values);
  const x = (index) => width - (values.length - 1 - index);
  const y = (value) => height - 1 - (height - 3) * value / most;
  const points = values.map((value, index) => `${x(index)},${y(value).toFixed(2)}`);
  const minutes = Math.max(1, Math.round(values.length * stepSeconds / 60));
  const text = unknown ? `${title}: not known in core mode` : values.length < 2
    ? `${title}: now ${count(now)}; no history yet`
    : `${title}: now ${count(now)}, at most ${count(Math.max(...values))} and at least `
      + `${count(Math.min(...values))} in the last ${minutes} min`;
  const svg = shape("svg", {
    viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": text,
  });
  svg.append(shape("line", {
    class: "axis", x1: 0, x2: width, y1: height - 1, y2: height - 1,
  }));
  if (!unknown && values.length > 1) {
    svg.append(
      shape("polygon", {
        class: "area", points: `${x(0)},${height - 1} ${points.join(" ")} ${width},${height - 1}`,
      }),
      shape("polyline", { class: "line", points: points.join(" ") }),
    );
  }
  const scale = element("p", undefined, "scale");
  scale.append(
    element("span", "10 min ago"),
    element("span", unknown || values.length < 2 ? "" : `most: ${count(Math.max(...values))}`),
    element("span", "now"),
  );
  scale.setAttribute("aria-hidden", "true"); // the picture's text says the same
  const figure = byId(`chart-${name}`);
  figure.replaceChildren(
    figure.firstElementChild, element("p", unknown ? "–" : count(now), "now"), svg, scale,
  );
}

function about(status) {
  const parts = [`${status.host}, process ${status.pid}`, `version ${status.version}`];
  if (status.mode) parts.push(`${status.mode} mode`);
  if (status.streams.length) parts.push(`streams ${status.streams.join(", ")}`);
  parts.push(status.store === "memory" ? "store memory" : `store ${status.store} in ${status.store_place}`,
    `up ${duration(status.uptime_seconds)}`);
  return parts.join(" · ");
}

function connection(one) {
  const again = `${count(one.reconnects)} reconnects`;
  if (!one.connected) return `none: ${one.last_error} · ${again}`;
  const server = [one.server_name, one.cluster, `nats-server ${one.server_version}`];
  return ["open", one.server, ...server.filter(Boolean), again].join(" · ");
}

function showState(state, sentence, reasons) {
  document.body.dataset.state = state;
  document.title = `${state === "ready" ? "well" : state}: alarmdigest`;
  say("sentence", sentence);
  byId("reasons").replaceChildren(...reasons.map((reason) => element("li", reason)));
}

// A stream that old data is read from is behind, and that is no fault.
function wrongClock({ at, ahead_seconds: ahead }) {
  const days = Math.round((ahead ?? 0) / 86400);
  return days < 1 ? [] : [["Arrivals go by", `${at}, ${count(days)} days ahead of our clock`, true]];
}

function showGroup(group) {
  byId("group").hidden = group === null;
  if (group === null) return;
  const leader = group.members.find((one) => one.leads && one.alive);
  say("group-sentence",
    `Group ${group.group}, led by ${leader ? leader.name : "nobody"}; this is ${group.replica}.`);
  pairs("members", group.members.map((one) => [
    one.name,
    [one.leads ? "leader" : "follower", one.alive ? "" : "silent", `input ${number.format(one.input)}`]
      .filter(Boolean).join(" · "),
    !one.alive,
  ]));
}

// What a process beside the service says of itself; of several, one acts.
function running(name, { processes, acting }) {
  if (processes === null) return `${name}: not known`;
  if (processes === 0) return `${name}: not running`;
  const acts = acting === undefined || acting === processes ? ""
    : acting === 0 ? ", none acts" : `, ${count(acting)} acts`;
  return `${name}: ${count(processes)} ${processes === 1 ? "process" : "processes"}${acts}`;
}

// `runs` is false where nobody does it, which may be as it should.
function stage(title, value, lines, who, runs = true) {
  const made = element("li", undefined, runs ? "" : "off");
  made.append(element("p", title, "stage"), element("p", value, "now"),
    ...lines.map(([text, bad]) => element("p", text, bad ? "bad" : "")), element("p", who));
  return made;
}

function showWay({ way: { bridge, scheduler, deliver }, totals, alarms, rejected }) {
  const refused = Object.values(rejected.by_reason).reduce((sum, value) => sum + value, 0);
  // Its own figures only while it runs.
  const of = (process, ...lines) => process.processes ? lines : [];
  byId("way").replaceChildren(
    stage("Alerts in", bridge.processes ? count(bridge.published) : "–", of(bridge,
      [`${count(bridge.rejected)} rejected`], [`${count(bridge.failed)} failed requests`],
    ), running("bridge", bridge), bridge.processes > 0),
    stage("Events", count(totals.events), [[`${count(refused)} rejected messages`]], "this service"),
    stage("Due", count(alarms.due), [[`of ${count(alarms.active)} active alarms`]], "this service"),
    stage("Requests", count(totals.requests), of(scheduler,
      [`${count(scheduler.requests)} by schedule`], [`${count(scheduler.waiting)} waiting`],
      [`${count(scheduler.failed)} failed`],
    ), running("scheduler", scheduler), scheduler.processes > 0),
    stage("Digests", count(totals.digests), [["confirmed"]], "this service"),
    stage("Messages out", deliver.processes ? count(deliver.sent) : "–", of(deliver,
      [`${count(deliver.waiting)} waiting`], [`${count(deliver.dead)} dead letters`, deliver.dead > 0],
    ), running("deliver", deliver), deliver.processes > 0),
  );
}

function show(status) {
  showState(status.state, SENTENCES[status.state], status.reasons);
  say("about", about(status));

  const { alarms, behind, checkpoint, disk, history, output, position, rejected } = status;
  for (const [name, title] of CHARTS) {
    const now = name === "behind" ? behind.messages ?? 0 : status.rates[name];
    const unknown = name === "behind" && behind.messages === null;
    chart(name, title, history[name], now, history.step_seconds, unknown);
  }
  showWay(status);
  say("behind-messages", behind.messages === null ? "not known" : count(behind.messages));
  say("behind-seconds", behind.seconds === null ? "not known" : duration(behind.seconds));
  say("behind-position", position === null ? "–"
    : `${number.format(position.sequence)} of ${number.format(position.last_sequence)}`);
  say("behind-backlog", size(behind.backlog_bytes));

  say("alarms-held", count(alarms.held));
  say("alarms-active", count(alarms.active));
  say("alarms-due", count(alarms.due));
  say("alarms-users", count(alarms.users));

  const last = output?.last_digest_at;
  say("output-last", last ? clock(new Date(last)) : "none since the start");
  say("output-unconfirmed", size(output?.unconfirmed_bytes ?? 0));
  say("output-oldest", output?.unconfirmed_bytes ? duration(output.oldest_unconfirmed_seconds) : "–");
  say("output-resent", count(output?.resent ?? 0));

  const never = checkpoint === null;
  say("checkpoint-age", never ? "none yet" : duration(checkpoint.age_seconds));
  say("checkpoint-seconds", never ? "–" : duration(checkpoint.seconds));
  say("checkpoint-bytes", never ? "–" : size(checkpoint.bytes));
  say("checkpoint-counts",
    never ? "–" : `${count(checkpoint.written)}, ${count(checkpoint.failures)}`);

  for (const kind of ["lmdb", "cassandra"]) {
    for (const row of document.querySelectorAll(`#checkpoint .${kind}`)) {
      row.hidden = status.store !== kind;
    }
  }
  say("checkpoint-unfolded", size(checkpoint?.unfolded_bytes ?? 0));
  say("checkpoint-rewritten", count(checkpoint?.rewritten ?? 0));
  say("disk-store", size(disk.store_bytes));
  say("disk-free", disk.free_bytes === null ? "not known" : size(disk.free_bytes));

  const lost = showBad("losses", status.losses, LOSSES);
  say("losses-sentence", lost ? "Something was lost:" : "Nothing was lost since the start.");
  const changed = showBad("changes", status.stream_changes, CHANGES);
  say("changes-sentence", changed ? "A stream was changed under the service:"
    : status.mode === "core" ? "Core mode uses no streams."
    : "No stream was changed under the service since the start.");

  byId("happened").hidden = status.happened.length === 0;
  rows("happened-list", status.happened.map((one) => [[clock(new Date(one.at))], [one.what]]));

  showGroup(status.group);

  pairs("connections", status.connections.map((one) => [
    CONNECTIONS[one.name] ?? one.name, connection(one), !one.connected,
  ]));

  pairs("identity", [
    ["Host", status.host], ["Process", `${status.pid}, Python ${status.python}`],
    ["Started", clock(new Date(status.started_at))], ["Data directory", status.data_dir],
    ...wrongClock(status.arrival),
    ...(status.trace_seconds_left === null ? []
      : [["Trace", `one user's messages are logged for ${duration(status.trace_seconds_left)}`]]),
  ]);
  pairs("settings", Object.entries(status.settings));
  byId("settings-title").hidden = Object.keys(status.settings).length === 0;

  pairs("rejected", Object.entries(rejected.by_reason).map(([reason, value]) =>
    [reason, count(value)]));
  byId("rejected-last").hidden = rejected.last.length === 0;
  rows("rejected-last", rejected.last.map((one) =>
    [[clock(new Date(one.at))], [one.reason], [size(one.bytes), "number"]]));

  rows("workers", status.workers.map((worker) => [
    [worker.name], [count(worker.queue), "number"], [count(worker.alarms), "number"],
    [count(worker.users), "number"],
  ]));
  say("updated", `As of ${clock(new Date())}`);
}

// As the commands show them: what cannot be seen is escaped.
const printable = (text) => text.replace(/[\p{C}\p{Z}]/gu, (one) => one === " " ? "\u00a0"
  : `\\u{${one.codePointAt(0).toString(16)}}`);

// With --show-users only. Less often than the rest: every alarm is looked at for it.
let usersAt = 0;

async function lookAtUsers() {
  if (Date.now() - usersAt < USERS_EVERY_MS) return;
  usersAt = Date.now();
  try {
    const answer = await fetch("users.json", {
      cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    showUsers(await answer.json());
  } catch {
    say("waiting-sentence", "The workers have no time to say.");
  }
}

function showUsers(users) {
  const more = users.found - users.top.length;
  say("waiting-sentence", users.found === 0 ? "Nobody: nothing is due."
    : `${count(users.found)} ${users.found === 1 ? "user waits" : "users wait"} for ${
      count(users.due)} due ${users.due === 1 ? "alarm" : "alarms"}${more > 0 ? `; ${count(more)} of them are not shown` : ""}.`);
  byId("waiting-users").hidden = users.found === 0;
  rows("waiting-users", users.top.map((user) => [
    [printable(user.UserID)],
    [duration(Math.max(0, (Date.now() - new Date(user.waits_since)) / 1000)), "number"],
    [count(user.due), "number"], [count(user.active), "number"], [count(user.critical), "number"],
  ]));
}

let heardAt = null;
let paused = false;

async function look() {
  try {
    const answer = await fetch("status.json", {
      cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const status = await answer.json();
    heardAt = new Date();
    if (!paused) show(status);
    byId("waiting").hidden = !status.shows_users;
    if (!paused && status.shows_users) await lookAtUsers();
  } catch {
    if (!paused) showState("gone", "The service cannot be reached.",
      [heardAt ? `What is shown below is from ${clock(heardAt)}.`
        : "It has not answered since this page was opened."]);
  }
}

async function keepLooking() {
  if (!paused) await look();
  setTimeout(keepLooking, EVERY_MS);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (paused) say("updated", `Paused at ${clock(new Date())}`);
});

keepLooking();
