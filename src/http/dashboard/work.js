// Who works, what was given up, jobs, what happens just now, webhooks, and the search.

import { fill } from "./charts.js";
import { $, action, ago, brief, confirmed, count, el, emptyRow, keyed, many, millis, notice, now, pill, row, say, show, span, when } from "./page.js";
import { get, post, queue, remove } from "./api.js";

const DEAD = queue("dead-letters");
const JOBS = "/api/recommendations/regenerate-embeddings";

// --- Workers

export function showWorkers(workers) {
  say("workers-note", `${many(workers.length, "process", "processes")} heard of in the last ten seconds`);
  keyed($("workers"), workers, (worker) => worker.id, worker, updateWorker, () =>
    emptyRow(8, "No process has been heard of. Start one with ", el("code", { text: "mapx-embeddings worker" }), "."));
}

function worker(item) {
  const line = row(["who", "", "full"], ["state", "State"], ["beat", "Heartbeat"], ["hand", "In hand", "n"], ["calls", "Calls at once"], ["ready", "Ready", "n"], ["failed", "Failed", "n"], ["act", "", "act"]);
  line.who.append(el("strong", { text: `${item.role} on ${item.host}` }), el("small", { text: `pid ${item.pid}, ${item.id}` }));
  line.pill = el("span");
  line.state.append(line.pill);
  line.number = el("span");
  line.why = el("small");
  line.calls.append(line.number, line.why);
  line.button = action("Drain", async () => {
    const drained = line.item.drainSince !== null;
    await post(queue(`workers/${encodeURIComponent(line.item.id)}/${drained ? "undrain" : "drain"}`));
    notice(drained ? "It takes tasks again within two seconds." : "It finishes what it holds and takes nothing new.");
  });
  line.act.append(line.button);
  return line;
}

function updateWorker(line, item) {
  const state = item.state ?? "serves the API";
  pill(line.pill, { working: "good", draining: "warn", drained: "warn" }[item.state] ?? "", state);
  when(line.beat, item.heartbeatAt);
  say(line.hand, count(item.inFlight));
  const { current, min, max, reason, changedAt } = item.concurrency;
  if (item.state === null) {
    say(line.number, "–");
    say(line.why, "");
  } else {
    say(line.number, min === max ? `${count(current)}, fixed` : `${count(current)} of ${count(min)} to ${count(max)}`);
    say(line.why, `${reason ?? "as it is set"}${changedAt ? `, ${ago(changedAt)}` : ""}`);
  }
  say(line.ready, brief(item.readyTotal));
  say(line.failed, brief(item.failedTotal));
  show(line.button, item.state !== null);
  const drained = item.drainSince !== null;
  say(line.button, drained ? "Let it work" : "Drain");
  line.button.setAttribute("aria-label", `${drained ? "Let work again" : "Drain"}: ${item.role} ${item.id}`);
}

// --- Dead letters

export function showDead({ groups, total }) {
  say("dead-note", total ? `${count(total)} in ${many(groups.length, "group")}` : "");
  keyed($("dead"), groups, (group) => group.error, group, (line, item) => {
    say(line.error.main, item.error || "no reason was told");
    say(line.error.note, `for example recommendation ${item.example_id}`);
    say(line.number, count(item.count));
    when(line.first, item.first_seen);
    when(line.last, item.last_seen);
  }, () => emptyRow(5, "Nothing was given up. What fails for good will stand here, grouped by its error."));
}

function group() {
  const line = row(["error", "", "error full"], ["number", "Count", "n"], ["first", "First"], ["last", "Last"], ["act", "", "act"]);
  line.error.main = el("span");
  line.error.note = el("small");
  line.error.append(line.error.main, line.error.note);
  line.act.append(
    action("Replay", () => order(line.item, "replay", "They start afresh at low priority, with all their attempts before them.")),
    action("Discard", () => order(line.item, "discard", "They stay without an embedding and are found by words alone, until somebody edits them."), true),
  );
  return line;
}

async function order(item, what, means) {
  // Of this moment: the filter means whatever has this text in its error.
  const filter = item.error ? { error: item.error } : {};
  const { total } = await get(`${DEAD}/groups${item.error ? `?error=${encodeURIComponent(item.error)}` : ""}`);
  if (total === 0) {
    notice("There are none of these any more.");
    await refreshDead();
    return;
  }
  const verb = what === "replay" ? "Replay" : "Discard";
  const others = total > item.count ? ` ${count(total - item.count)} of them came since or have a longer error with the same words.` : "";
  const text = `“${item.error || "any error"}”. ${means}${others}`;
  if (!(await confirmed(`${verb} ${many(total, "dead letter")}?`, text, `${verb} ${count(total)}`, what === "discard"))) return;
  const done = await post(`${DEAD}/${what}`, { filter });
  notice(`${verb}ed ${many(done.count, "dead letter")}.`);
  await refreshDead();
}

export async function refreshDead() {
  showDead(await get(`${DEAD}/groups`));
}

// --- Regenerations

export async function refreshJobs() {
  const jobs = (await get(JOBS)).slice(0, 8);
  const open = jobs.filter((job) => job.state === "running" || job.state === "paused").length;
  say("jobs-note", open ? "" : "none is running");
  keyed($("jobs"), jobs, (job) => job.job_id, job, updateJob, () =>
    el("li", { class: "empty" }, "There was none yet. ", el("code", { text: "mapx-embeddings regenerate --scope all --dry-run" }), " says what one would take."));
  return jobs;
}

function job(item) {
  const line = el("li");
  line.name = el("div", {}, el("strong", { text: `Job ${item.job_id}: ${item.scope}` }), el("small", { text: `${item.origin === "model-change" ? "the model changed" : "asked for"}, ${item.priority} priority` }));
  line.state = el("span");
  line.bar = el("span", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Job ${item.job_id}` });
  line.note = el("small");
  line.act = el("div", { class: "act" });
  const tell = (what) => post(`${JOBS}/${item.job_id}/${what}`).then(refreshJobs);
  line.pause = action("Pause", () => tell(line.item.state === "running" ? "pause" : "resume"));
  line.cancel = action("Cancel", async () => {
    const left = line.item.total - line.item.done - line.item.failed - line.item.skipped;
    const title = `Cancel job ${item.job_id}?`;
    const text = `${many(left, "row")} of ${count(line.item.total)} are left. What is done stays; those that have no vector at all keep their tasks.`;
    if (!(await confirmed(title, text, `Cancel job ${item.job_id}`, true))) return;
    await remove(`${JOBS}/${item.job_id}`);
    notice(`Job ${item.job_id} is cancelled.`);
    await refreshJobs();
  }, true);
  line.act.append(line.pause, line.cancel);
  line.append(line.name, el("div", {}, line.bar, line.note), line.act);
  line.name.append(line.state);
  return line;
}

function updateJob(line, item) {
  const open = item.state === "running" || item.state === "paused";
  pill(line.state, { running: "good", paused: "warn", cancelled: "" }[item.state] ?? "", item.state);
  const settled = item.done + item.failed + item.skipped;
  fill(line.bar, [[item.state === "completed" ? 1 : settled, ""]], item.state === "completed" ? 1 : item.total);
  line.bar.setAttribute("aria-valuenow", Math.floor(item.percent));
  const parts = [`${item.percent.toFixed(item.percent < 10 ? 1 : 0)} %`, `${count(settled)} of ${many(item.total, "row")}`];
  if (item.failed) parts.push(`${count(item.failed)} failed`);
  if (item.skipped) parts.push(`${count(item.skipped)} skipped`);
  if (item.state === "running") parts.push(item.eta_seconds === null ? "nothing moves" : `done in ${span(item.eta_seconds)}`);
  parts.push(item.finished_at ? `ended ${ago(item.finished_at)}` : `begun ${ago(item.created_at)}`);
  say(line.note, parts.join(" · "));
  show(line.pause, open || item.state === "cancelled");
  say(line.pause, item.state === "running" ? "Pause" : "Resume");
  line.pause.setAttribute("aria-label", `${line.pause.textContent} job ${item.job_id}`);
  show(line.cancel, open);
  line.cancel.setAttribute("aria-label", `Cancel job ${item.job_id}`);
}

// --- Activity

const seen = new Map();
let regenerated = 0;
const KINDS = { queued: ["warn", "waiting"], ready: ["good", "ready"], failed: ["bad", "given up"] };

export function happened(kind, event) {
  const id = event.recommendation_id;
  const known = seen.get(id);
  // Of a regeneration: nobody waits for it, and there may be thousands.
  if (kind === "ready" && event.took_ms === undefined && !known) {
    regenerated += 1;
    say("activity-note", `saves and edits as they become ready; ${count(regenerated)} more of regenerations`);
    return;
  }
  seen.delete(id);
  seen.set(id, { id, kind, event, at: event.at });
  while (seen.size > 60) seen.delete(seen.keys().next().value);
  if (known?.kind !== kind) drawActivity();
}

export function skippedEvents(number) {
  say("activity-note", number === null ? "some happened while nobody listened" : `${many(number, "more event")} than could be shown`);
}

function drawActivity() {
  const items = [...seen.values()].reverse();
  keyed($("activity"), items, (item) => item.id, (item) => {
    const line = el("li", { class: "new", "data-id": item.id });
    line.pill = el("span");
    line.text = el("span");
    line.time = el("span");
    line.why = el("span", { class: "why" });
    line.append(line.pill, line.text, line.time, line.why);
    return line;
  }, (line, item) => {
    const [style, word] = KINDS[item.kind];
    pill(line.pill, style, word);
    const took = item.event.took_ms === undefined ? "" : `, ${millis(item.event.took_ms)} after it was asked for`;
    say(line.text, `Recommendation ${item.id}${took}`);
    when(line.time, item.at);
    say(line.why, item.event.error ?? "");
    show(line.why, Boolean(item.event.error));
  }, () => el("li", { class: "empty" }, "Nothing has happened since this page was opened. A ", el("code", { text: "POST /api/recommendations/save" }), " would show here."));
}
drawActivity();

// --- Webhooks

// The last deliveries of each endpoint, the newest first. False where there are no webhooks to be seen.
export async function refreshHooks() {
  let endpoints;
  try {
    endpoints = await get("/api/webhooks");
  } catch (problem) {
    // A service without them, or somebody who may not see them.
    if (problem.status !== 404 && problem.status !== 403) throw problem;
    show("hooks-card", false);
    return false;
  }
  show("hooks-card", true);
  const off = endpoints.filter((one) => !one.enabled).length;
  say("hooks-note", endpoints.length ? `${many(endpoints.length, "endpoint")}${off ? `, ${count(off)} disabled` : ""}` : "");
  const lists = await Promise.all(endpoints.slice(0, 10).map(async (one) => {
    const { items } = await get(`/api/webhooks/${one.id}/deliveries?limit=5`);
    return (items.length ? items : [null]).map((delivery) => ({ one, delivery }));
  }));
  keyed($("hooks"), lists.flat(), ({ one, delivery }) => `${one.id}/${delivery?.id}`, hook, updateHook, () =>
    emptyRow(5, "No endpoint is told of anything. A ", el("code", { text: "POST /api/webhooks" }), " adds one."));
  return true;
}

function hook() {
  const line = row(["to", "", "error full"], ["event", "Event"], ["state", "State"], ["code", "Answer", "n"], ["at", "When"]);
  for (const name of ["to", "state"]) {
    line[name].main = el("span");
    line[name].note = el("small");
    line[name].append(line[name].main, line[name].note);
  }
  return line;
}

const DELIVERY = { delivered: "good", failed: "bad", retrying: "warn" };

function updateHook(line, { one, delivery }) {
  say(line.to.main, one.url);
  const trouble = one.failing_since ? `failing for ${ago(one.failing_since).replace(" ago", "")}` : "";
  say(line.to.note, one.enabled ? trouble : `disabled ${ago(one.disabled_at)}${one.disabled_reason ? `: ${one.disabled_reason}` : ""}`);
  say(line.event, delivery?.event ?? "–");
  pill(line.state.main, DELIVERY[delivery?.state] ?? "", delivery?.state ?? "nothing yet");
  const next = delivery?.next_attempt_at ? (new Date(delivery.next_attempt_at) - now()) / 1000 : null;
  const attempts = delivery && delivery.attempts > 1 ? many(delivery.attempts, "attempt") : "";
  say(line.state.note, [attempts, next !== null && next > 0 ? `next in ${span(next)}` : ""].filter(Boolean).join(", "));
  const last = delivery?.last_attempt;
  say(line.code, last ? `${last.status ?? last.error ?? "none"}, ${millis(last.duration_ms)}` : "–");
  when(line.at, last?.at ?? delivery?.created_at ?? null);
}

// --- Search

$("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("query").value.trim() || $("query").placeholder;
  $("query").value = text;
  try {
    const found = await post("/api/recommendations/search", { query: text, limit: 8 });
    const meta = found.search_metadata;
    say("search-note", `${many(found.total_recommendations, "answer")} in ${millis(meta.took_ms)}${meta.degraded ? `; ${meta.reason}` : ""}`);
    const rows = found.results.flatMap((result) => result.recommendations.map((one) => ({ one, result })));
    $("results").replaceChildren(...rows.map(({ one, result }) => el("li", {},
      el("span", { class: "score", text: one.similarity.toFixed(2) }),
      el("b", { text: one.title || result.place_name || result.service_name || `Recommendation ${one.recommendation_id}` }),
      el("p", { text: one.description.length > 240 ? `${one.description.slice(0, 240)}…` : one.description }))));
    if (!rows.length) $("results").append(el("li", { class: "empty", text: "Nothing is near enough. Other words may find it." }));
  } catch (problem) {
    say("search-note", problem.message);
  }
});
