// Talks to the service: requests, and the stream of events.

const KEY = "mapx-token";
// The service says something each fifteen seconds; longer silence is a broken connection.
const SILENCE = 25000;
const QUEUE = "/api/recommendations/embedding-queue";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more = {}) {
  const all = { "x-actor": "dashboard", ...more };
  if (token.get()) all.authorization = `Bearer ${token.get()}`;
  return all;
}

async function refusal(response) {
  let message = `the service answered ${response.status}`;
  try {
    message = (await response.json()).message ?? message;
  } catch {
    // Not the service's own answer.
  }
  return new Refused(response.status, message);
}

async function call(method, path, body) {
  const more = body === undefined ? {} : { "content-type": "application/json" };
  const init = { method, headers: headers(more), cache: "no-store", signal: AbortSignal.timeout(30000) };
  if (body !== undefined) init.body = JSON.stringify(body);
  const response = await fetch(path, init);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export const get = async (path) => (await call("GET", path)).data;
export const post = async (path, body = {}) => (await call("POST", path, body)).data;
export const remove = async (path) => (await call("DELETE", path)).data;
export const queue = (path) => `${QUEUE}/${path}`;

// Follows the events for ever. Through fetch and not EventSource, which could send no token.
//
// `on.message(event, data)`, `on.live()`, `on.lost(problem)`; the page asks by itself while it can't listen.
export function follow(on) {
  let last = null;
  let failures = 0;
  let stop = new AbortController();
  let wake = () => {};
  const once = async () => {
    stop = new AbortController();
    const abort = stop;
    let silence = setTimeout(() => abort.abort(), SILENCE);
    try {
      const more = last === null ? {} : { "last-event-id": last };
      const response = await fetch(queue("events?queued=true"), { headers: headers(more), cache: "no-store", signal: abort.signal });
      if (!response.ok) {
        // Of another service than the one before.
        if (response.status === 400) last = null;
        throw await refusal(response);
      }
      failures = 0;
      on.live();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the service ended the connection");
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE);
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const field = (name) => block.split("\n").find((line) => line.startsWith(name))?.slice(name.length);
          const data = field("data: ");
          if (data === undefined) continue;
          last = field("id: ") ?? last;
          try {
            on.message(field("event: "), JSON.parse(data));
          } catch (bug) {
            // Of the page, not of the connection.
            console.error(bug);
          }
        }
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  };
  const forever = async () => {
    for (;;) {
      try {
        await once();
      } catch (problem) {
        on.lost(problem);
      }
      failures += 1;
      const pause = Math.min(1000 * 2 ** (failures - 1), 10000);
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, pause);
      });
    }
  };
  forever();
  const again = () => {
    failures = 0;
    stop.abort();
    wake();
  };
  // The network is back: no need to wait for the next attempt.
  window.addEventListener("online", again);
  return { again };
}
