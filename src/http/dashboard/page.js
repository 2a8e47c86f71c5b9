// Pieces of the page: elements, numbers and moments as people read them, the two dialogs. Data only ever becomes text.

export const $ = (id) => document.getElementById(id);

export function el(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(name, props = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Only what differs is written: what is selected or read aloud stays.
export function say(node, text) {
  const target = typeof node === "string" ? $(node) : node;
  if (target.textContent !== text) target.textContent = text;
}

export function show(node, wanted) {
  const target = typeof node === "string" ? $(node) : node;
  if (target.hidden === wanted) target.hidden = !wanted;
}

export function pill(node, kind, text) {
  const target = typeof node === "string" ? $(node) : node;
  const wanted = `pill ${kind}`;
  if (target.className !== wanted) target.className = wanted;
  say(target, text);
}

// Rows that keep their elements, and so the focus, for as long as there is something with their key.
export function keyed(container, items, keyOf, create, update, empty) {
  const rows = (container.keyed ??= new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, row] of rows) {
    if (!wanted.has(key)) {
      row.remove();
      rows.delete(key);
    }
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    let row = rows.get(key);
    if (!row) {
      row = create(item);
      rows.set(key, row);
    }
    row.item = item;
    update(row, item);
    if (container.children[index] !== row) container.insertBefore(row, container.children[index] ?? null);
  });
  if (!container.placeholder && empty) container.placeholder = empty();
  if (container.placeholder) {
    if (items.length === 0) container.append(container.placeholder);
    else container.placeholder.remove();
  }
}

// A table's row with a cell for each name; on a phone each cell has its label.
export function row(...cells) {
  const line = el("tr");
  for (const [name, label, kind] of cells) {
    const cell = el("td", { "data-label": label || undefined, class: kind });
    line[name] = cell;
    line.append(cell);
  }
  return line;
}

export function emptyRow(columns, ...text) {
  return el("tr", {}, el("td", { colspan: columns, class: "empty full" }, ...text));
}

const plain = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n) => (n === null || n === undefined ? "–" : plain.format(Math.round(n)));
export const brief = (n) => (Math.abs(n) < 100000 ? count(n) : compact.format(n));
export const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

export function rate(n) {
  if (n === null || n === undefined) return "–";
  if (n === 0) return "0/s";
  return n < 10 ? `${n.toFixed(1)}/s` : `${brief(n)}/s`;
}

export function millis(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return span(ms / 1000);
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export function dollars(usd) {
  if (!usd) return "$0";
  return usd < 0.01 ? `$${usd.toPrecision(2)}` : `$${usd.toFixed(2)}`;
}

export function percent(part, whole) {
  if (!whole) return "–";
  const share = (part * 100) / whole;
  // All is all, and nothing less is.
  if (share < 100 && share > 99.9) return "99.9 %";
  return `${share < 10 && share > 0 ? share.toFixed(1) : Math.floor(share)} %`;
}

// The service's clock and this one may differ; what is told is how long ago it was there.
let ahead = 0;
export function learnClock(there) {
  ahead = new Date(there).getTime() - Date.now();
}
export const now = () => Date.now() + ahead;

export function ago(moment) {
  const seconds = Math.max(0, (now() - new Date(moment).getTime()) / 1000);
  if (seconds < 1) return "now";
  return `${seconds < 60 ? `${Math.floor(seconds)} s` : span(seconds).replace(/ min.*/, " min")} ago`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const at = (moment) => clock.format(new Date(moment));

// A moment that says how long ago it is, and goes on saying it.
export function when(node, moment) {
  if (!moment) {
    say(node, "–");
    return;
  }
  if (!node.moment) {
    node.moment = el("time");
    node.replaceChildren(node.moment);
  }
  if (node.moment.dateTime !== moment) {
    node.moment.dateTime = moment;
    node.moment.title = exact.format(new Date(moment));
  }
  say(node.moment, ago(moment));
}

setInterval(() => {
  for (const node of document.querySelectorAll("time[datetime]")) say(node, ago(node.dateTime));
}, 1000);

// Asks before something is done; true when it is to be done.
export function confirmed(title, text, yes, danger) {
  const dialog = $("confirm");
  say("confirm-title", title);
  say("confirm-text", text);
  say("confirm-yes", yes);
  $("confirm-yes").className = danger ? "danger" : "";
  return asked(dialog);
}

export function asked(dialog) {
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

let hiding;
export function notice(text, bad) {
  const node = $("notice");
  node.className = bad ? "banner" : "banner info";
  say(node, text);
  show(node, true);
  clearTimeout(hiding);
  hiding = setTimeout(() => show(node, false), bad ? 15000 : 6000);
}

// A button that does something with the service: not twice at once, and what goes wrong is said.
export function action(label, act, danger) {
  const button = el("button", { type: "button", class: danger ? "danger" : undefined, text: label });
  button.addEventListener("click", async () => {
    // Not `disabled`: that would take the focus from whoever came by keyboard.
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      await act(button);
    } catch (problem) {
      notice(problem.message, true);
    } finally {
      button.ariaBusy = "false";
    }
  });
  return button;
}
