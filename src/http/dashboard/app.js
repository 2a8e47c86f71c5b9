// Ties the page to the service: what comes by itself, and what is asked for now and then.

import { follow, get, queue, token } from "./api.js";
import { $, asked, at, pill, say, show } from "./page.js";
import { showCoverage, showHistory, showStatus } from "./queue.js";
import { happened, refreshDead, refreshHooks, refreshJobs, showWorkers, skippedEvents } from "./work.js";

let live = false;
let lostAt = null;
let refused = false;

function status(data) {
  showStatus(data);
  showWorkers(data.workers);
  noted(data);
}

// Asked again at once when the status says that something has changed there.
let dead = null;
function noted(data) {
  if (data.deadLettered !== dead) {
    dead = data.deadLettered;
    panels.dead.due();
  }
  panels.jobs.every = data.byPriority.low > 0 || panels.jobs.open ? 1500 : 8000;
}

class Panel {
  constructor(every, ask) {
    this.every = every;
    this.ask = ask;
    this.asking = false;
    this.again = false;
    this.timer = 0;
    this.open = false;
    // There is nothing to ask for.
    this.done = false;
  }

  // At most one request at a time.
  async due() {
    if (this.asking) {
      this.again = true;
      return;
    }
    clearTimeout(this.timer);
    this.asking = true;
    try {
      if (!document.hidden && !refused && !this.done) await this.ask(this);
    } catch (problem) {
      if (problem.status === 401 || problem.status === 403) wantToken(problem);
    }
    this.asking = false;
    const soon = this.again;
    this.again = false;
    this.timer = setTimeout(() => this.due(), soon ? 300 : this.every);
  }
}

const panels = {
  history: new Panel(5000, async () => {
    const [hour, five] = await Promise.all([get(queue("history?minutes=60&step=30")), get(queue("history?minutes=5&step=10"))]);
    showHistory(hour, five);
  }),
  coverage: new Panel(4000, async () => showCoverage(await get(queue("coverage")))),
  dead: new Panel(15000, refreshDead),
  jobs: new Panel(8000, async (panel) => {
    const jobs = await refreshJobs();
    panel.open = jobs.some((job) => job.state === "running");
  }),
  hooks: new Panel(15000, async (panel) => {
    panel.done = !(await refreshHooks());
  }),
  // While there is no stream.
  status: new Panel(2000, async () => {
    if (!live && lostAt !== null) {
      status(await get(queue("status")));
      polling();
    }
  }),
};

function polling() {
  pill("connection", "warn", "Every two seconds");
  document.body.classList.remove("stale");
  show("lost", false);
}

async function wantToken(problem) {
  if (refused) return;
  refused = true;
  pill("connection", "bad", problem.status === 401 ? "Token wanted" : "Not allowed");
  say("token-text", `The service says: ${problem.message}. The token goes with every request, stays in this tab and is forgotten with it.`);
  await askToken();
}

async function askToken() {
  $("token").value = token.get();
  if (await asked($("token-box"))) {
    token.set($("token").value.trim());
    refused = false;
    stream.again();
    Object.values(panels).forEach((panel) => panel.due());
  }
}

const stream = follow({
  live() {
    live = true;
    refused = false;
    pill("connection", "good", "Live");
    show("lost", false);
    document.body.classList.remove("stale");
    if (lostAt !== null) Object.values(panels).forEach((panel) => panel.due());
    lostAt = null;
  },
  message(event, data) {
    if (event === "status") status(data);
    else if (event === "skipped") skippedEvents(data.count);
    else {
      happened(event, data);
      if (event === "failed") panels.dead.due();
    }
  },
  lost(problem) {
    if (problem.status === 401 || problem.status === 403) {
      live = false;
      wantToken(problem);
      return;
    }
    if (live || lostAt === null) lostAt = Date.now();
    live = false;
    // It answers, but has no room for one more listener.
    if (problem.status === 429) {
      panels.status.due();
      return;
    }
    pill("connection", "bad", "Connection lost");
    say("lost", `Connection lost at ${at(lostAt)}. What you see is from then; trying again by itself.`);
    show("lost", true);
    document.body.classList.add("stale");
  },
});

$("token-open").addEventListener("click", askToken);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) Object.values(panels).forEach((panel) => panel.due());
});
Object.values(panels).forEach((panel) => panel.due());
get("/health/live").then(({ version }) => say("footer", `mapx-embeddings ${version}`), () => {});
