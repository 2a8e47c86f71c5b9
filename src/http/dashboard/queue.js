// What waits, what was done, and what the provider is like.

import { chart, fill } from "./charts.js";
import { $, action, ago, brief, count, dollars, el, keyed, learnClock, many, millis, now, percent, pill, rate, row, say, show, span } from "./page.js";
import { post, queue } from "./api.js";

const LANES = [["high", "edits"], ["normal", "saves"], ["low", "imports, regenerations"]];

const charts = {
  throughput: chart($("chart-throughput"), "Throughput", [{ name: "ready", kind: "area", style: "s0" }], rate),
  errors: chart($("chart-errors"), "Errors", [
    { name: "retried", kind: "bar", style: "warn" },
    { name: "given up", kind: "bar", style: "bad" },
  ], brief),
  latency: chart($("chart-latency"), "Save to ready", [
    { name: "p50", kind: "line", style: "s0" },
    { name: "p95", kind: "line", style: "s1" },
  ], millis),
};

// One sentence for whoever was just woken up.
function summary(status) {
  const { provider, broker, paused } = status;
  const open = status.queueLength + status.processing;
  const halted = LANES.map(([lane]) => lane).filter((lane) => paused[lane]);
  if (!broker.ok) return `The broker can't be used: ${broker.error}. Saves go on and wait in the ledger.`;
  if (!provider.ok) return `The provider can't be used: ${provider.error}. Tasks wait, searches go by words.`;
  if (halted.length === 3) return `Everything is paused; ${many(open, "task")} waiting.`;
  const parts = [];
  if (open > 0) {
    parts.push(`${many(open, "embedding")} on the way${status.etaSeconds ? `, done in about ${span(status.etaSeconds)}` : ""}`);
  }
  if (status.retrying > 0) parts.push(`${count(status.retrying)} waiting for another attempt`);
  if (halted.length) parts.push(`the ${halted.join(" and ")} lane paused`);
  if (status.deadLettered > 0) parts.push(`${many(status.deadLettered, "dead letter")} for somebody to look at`);
  const workers = status.workers.filter((worker) => worker.state !== null);
  if (!workers.length) parts.push("no worker is running");
  if (parts.length) return `${parts.join("; ")}.`.replace(/^./, (first) => first.toUpperCase());
  if (status.recommendations === 0) return "Nothing has been saved yet.";
  return "All quiet: every recommendation has its embedding.";
}

export function showStatus(status) {
  say("model", status.model);
  say("summary", summary(status));
  say("tile-waiting", brief(status.queueLength));
  say("tile-waiting-note", status.oldestPendingSeconds === null ? "nothing waits" : `oldest ${span(status.oldestPendingSeconds)}`);
  say("tile-hand", brief(status.processing));
  say("tile-hand-note", `of ${many(status.workers.filter((worker) => worker.state !== null).length, "worker")}`);
  say("tile-rate", rate(status.throughputPerSecond).replace("/s", ""));
  const open = status.queueLength + status.processing;
  const eta = status.etaSeconds === null ? "nothing moves" : `done in ${span(status.etaSeconds)}`;
  say("tile-rate-note", open === 0 ? "over the last ten seconds" : eta);
  say("tile-dead", brief(status.deadLettered));
  say("tile-dead-note", status.deadLettered ? "see below" : "none");
  $("tile-dead-box").classList.toggle("bad", status.deadLettered > 0);
  lanes(status);
  rungs(status);
  provider(status);
}

function lanes(status) {
  say("broker", `${status.broker.kind}${status.broker.ok ? "" : ": away"}`);
  const most = Math.max(1, ...LANES.map(([lane]) => status.byPriority[lane]));
  const items = LANES.map(([lane, use]) => ({
    lane,
    use,
    depth: status.byPriority[lane],
    oldest: status.oldestByPriority[lane],
    paused: status.paused[lane],
    most,
  }));
  keyed($("lanes"), items, (item) => item.lane, lane, updateLane);
}

function lane(item) {
  const line = row(["name", "", "full"], ["depth", "Depth", "n"], ["oldest", "Oldest", "n"], ["act", "", "act"]);
  line.bar = el("span", { class: "bar" });
  line.note = el("small");
  line.name.append(el("strong", { text: item.lane }), line.note, line.bar);
  line.button = action("Pause", () => post(queue(line.item.paused ? "resume" : "pause"), { lane: line.item.lane }));
  line.act.append(line.button);
  return line;
}

function updateLane(line, item) {
  const paused = item.paused && `paused ${ago(item.paused.since)} by ${item.paused.by}${item.paused.reason ? `: ${item.paused.reason}` : ""}`;
  say(line.note, paused || item.use);
  fill(line.bar, [[item.depth, ""]], item.most);
  say(line.depth, count(item.depth));
  say(line.oldest, item.oldest === null ? "–" : span(item.oldest));
  say(line.button, item.paused ? "Resume" : "Pause");
  line.button.setAttribute("aria-label", `${item.paused ? "Resume" : "Pause"} the ${item.lane} lane`);
}

function rungs(status) {
  const create = () => {
    const line = el("li");
    line.head = el("span");
    line.note = el("small");
    line.append(line.head, line.note);
    return line;
  };
  const update = (line, rung) => {
    say(line.head, `${many(rung.tasks, "task")} after ${many(rung.attempts, "failed attempt")}`);
    const seconds = rung.nextAt ? (new Date(rung.nextAt) - now()) / 1000 : null;
    say(line.note, seconds === null || seconds <= 0 ? "the first is due" : `the first again in ${span(seconds)}`);
  };
  keyed($("rungs"), status.retryRungs, (rung) => rung.attempts, create, update, () =>
    el("li", { class: "empty", text: "Nothing waits for another attempt." }));
}

// What the calls of the last five minutes were like; the rest is in the status.
let recent = null;
let latest = null;

function provider(status) {
  latest = status;
  const { provider: one } = status;
  const breaker = one.breaker?.state;
  if (one.ok) pill("provider-state", "good", breaker ? "breaker closed" : "in this process");
  else pill("provider-state", breaker === "half-open" ? "warn" : "bad", breaker ? `breaker ${breaker}` : "away");
  show("provider-error", !one.ok);
  if (!one.ok) say("provider-error", `${one.error}${one.breaker?.since ? ` (since ${span((now() - new Date(one.breaker.since)) / 1000)})` : ""}`);
  const facts = [["Kind", one.kind, status.model]];
  if (one.limits) {
    for (const kind of ["requests", "tokens"]) {
      const { limit, left } = one.limits[kind];
      facts.push([`${kind === "requests" ? "Requests" : "Tokens"} left`, limit === null ? "no limit known" : `${count(left)} of ${count(limit)}`, "", limit && [left, limit]]);
    }
  }
  if (one.waitingUntil && new Date(one.waitingUntil) > now()) {
    facts.push(["Asked to wait", span((new Date(one.waitingUntil) - now()) / 1000), "by the provider"]);
  }
  if (recent) {
    const { hour, five } = recent;
    const size = Math.max(0, ...status.workers.filter((worker) => worker.state !== null).map((worker) => worker.batchSize));
    const texts = five.calls ? five.texts / five.calls : null;
    facts.push(["Latency", five.calls ? `p50 ${millis(five.call_p50_ms)}, p95 ${millis(five.call_p95_ms)}` : "no calls", "of calls, five minutes"]);
    facts.push(["Batch fill", texts === null ? "–" : `${texts.toFixed(1)} of ${count(size)} texts`, texts === null ? "" : percent(texts, Math.max(size, texts)), texts !== null && size > 0 && [texts, size]]);
    facts.push(["429s", count(hour.refused), "in the last hour"]);
    facts.push(["Failed calls", count(hour.call_errors), "in the last hour"]);
  }
  if (one.usage) {
    const { today, total } = one.usage;
    facts.push(["Today", `${brief(today.tokens)} tokens, ${dollars(today.cost)}`, `${many(today.calls, "call")}, since midnight UTC`]);
    facts.push(["In all", `${brief(total.tokens)} tokens, ${dollars(total.cost)}`, `${many(total.calls, "call")}; ${many(total.cached, "text")} from the cache`]);
  } else {
    facts.push(["Cost", "none", "the model is built in"]);
  }
  const steering = status.workers.filter((worker) => worker.state !== null);
  if (steering.length) {
    const all = steering.reduce((sum, worker) => sum + worker.concurrency.current, 0);
    const newest = steering.map((worker) => worker.concurrency).sort((a, b) => (a.changedAt < b.changedAt ? 1 : -1))[0];
    facts.push(["Calls at once", count(all), `${newest.reason ?? "as it is set"}, since ${ago(newest.changedAt)}`.replace(" ago", "")]);
  }
  keyed($("provider"), facts.flatMap((fact) => [{ key: `${fact[0]}-name`, name: fact[0] }, { key: fact[0], fact }]), (item) => item.key, (item) => {
    if (item.name) return el("dt", { text: item.name });
    const value = el("dd");
    value.main = el("span");
    value.note = el("small");
    value.bar = el("span", { class: "bar" });
    value.append(value.main, " ", value.note, value.bar);
    return value;
  }, (node, item) => {
    if (item.name) return;
    const [, text, note, share] = item.fact;
    say(node.main, text);
    say(node.note, note);
    show(node.bar, Boolean(share));
    if (share) {
      fill(node.bar, [[share[0], ""]], share[1]);
      node.bar.classList.toggle("low", item.key.endsWith("left") && share[0] < share[1] / 10);
    }
  });
}

export function showHistory(hour, five) {
  learnClock(hour.to);
  recent = { hour: hour.total, five: five.total };
  const { points, step_seconds: step } = hour;
  const times = points.map((point) => point.at);
  const of = (pick) => points.map(pick);
  // The last point isn't over: a rate over all of its time would look like a slump.
  const over = (point, index) => (index === points.length - 1 ? Math.max(5, (new Date(hour.to) - new Date(point.at)) / 1000) : step);
  charts.throughput(times, [points.map((point, index) => point.ready / over(point, index))]);
  charts.errors(times, [of((point) => point.retried), of((point) => point.failed)]);
  charts.latency(times, [of((point) => point.latency_p50_ms), of((point) => point.latency_p95_ms)]);
  const { latency_p95_ms: p95, latency_p50_ms: p50 } = five.total.latency_p95_ms === null ? hour.total : five.total;
  say("tile-latency", millis(p95));
  say("tile-latency-note", p95 === null ? "nothing in the last hour" : `p50 ${millis(p50)}, ${five.total.latency_p95_ms === null ? "last hour" : "five minutes"}`);
  if (latest) provider(latest);
}

const STATES = [
  ["current", "have the vector of their text"],
  ["stale", "have one of an older text or model"],
  ["pending", "have none yet"],
  ["failed", "given up; found by words alone"],
];

export function showCoverage(coverage) {
  say("tile-covered", percent(coverage.current, coverage.total));
  say("tile-covered-note", `${brief(coverage.current)} of ${brief(coverage.total)}`);
  say("coverage-note", `of ${many(coverage.total, "recommendation")}`);
  fill($("coverage-bar"), STATES.map(([state]) => [coverage[state], state]), coverage.total);
  $("coverage-bar").setAttribute("aria-label", STATES.map(([state]) => `${state} ${coverage[state]}`).join(", "));
  keyed($("coverage"), STATES, ([state]) => state, ([state, means]) => {
    const line = el("li", { class: state });
    line.number = el("b");
    line.append(el("span", { text: state[0].toUpperCase() + state.slice(1) }), line.number, el("small", { text: means }));
    return line;
  }, (line, [state]) => say(line.number, count(coverage[state])));
}


