// Charts over time, drawn anew in the size they have.

import { at, el, svg } from "./page.js";

const HEIGHT = 140;
const TOP = 8;
const BOTTOM = 18;
const RIGHT = 6;
const LEFT = 44;

// The next larger of 1, 2, 5, 10, …: what people can read off an axis.
function nice(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most * 0.999);
}

// `series`: [{ name, kind: "area" | "line" | "bar", style }], `format` of a value.
export function chart(figure, title, series, format) {
  const read = el("span", { class: "read" });
  const keys = series.length > 1 ? series.map((one) => el("span", { class: `key ${one.style}`, text: one.name })) : [];
  const caption = el("figcaption", { class: "caption" }, el("span", { class: "name", text: title }), el("span", {}, ...keys), read);
  const canvas = svg("svg", { class: "chart", role: "img", tabindex: "0" });
  figure.replaceChildren(caption, canvas);
  let times = [];
  let values = series.map(() => []);
  let pointed = null;

  function tell(index) {
    const last = index === null ? times.length - 1 : index;
    if (last < 0) return;
    const parts = series.map((one, n) => `${series.length > 1 ? `${one.name} ` : ""}${format(values[n][last])}`);
    read.textContent = `${index === null ? "now" : at(times[last])}: ${parts.join(", ")}`;
  }

  function draw() {
    const width = Math.max(canvas.clientWidth, 120);
    canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const known = values.flat().filter((value) => value !== null);
    const most = nice(Math.max(0, ...known));
    const x = (n) => LEFT + ((width - LEFT - RIGHT) * n) / Math.max(1, times.length - 1);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const level = y(most * share);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: level, y2: level }));
      const label = svg("text", { x: LEFT - 6, y: level + 4, "text-anchor": "end" });
      label.textContent = share === 0 ? "0" : format(most * share);
      parts.push(label);
    }
    const last = times.length - 1;
    for (const [share, anchor] of last > 0 ? [[0, "start"], [1 / 3, "middle"], [2 / 3, "middle"], [1, "end"]] : []) {
      const n = Math.round(last * share);
      const label = svg("text", { x: x(n), y: HEIGHT - 3, "text-anchor": anchor });
      label.textContent = at(times[n]);
      parts.push(label);
    }
    const bars = series.filter((one) => one.kind === "bar").length;
    const sums = times.map(() => 0);
    series.forEach((one, s) => {
      if (one.kind === "bar") {
        const thick = Math.max(1.5, ((width - LEFT - RIGHT) / times.length) * 0.8);
        values[s].forEach((value, n) => {
          if (!value) return;
          const from = bars > 1 ? sums[n] : 0;
          sums[n] = from + value;
          const top = Math.max(TOP, y(Math.min(most, from + value)));
          parts.push(svg("rect", { class: `column ${one.style}`, x: x(n) - thick / 2, width: thick, y: top, height: Math.max(1.5, y(from) - top) }));
        });
        return;
      }
      let line = "";
      let begun = null;
      let end = null;
      let area = "";
      values[s].forEach((value, n) => {
        if (value === null) {
          if (begun !== null) area += `L${x(end)} ${y(0)}L${x(begun)} ${y(0)}Z`;
          begun = null;
          return;
        }
        const point = `${x(n).toFixed(1)} ${y(value).toFixed(1)}`;
        line += `${begun === null ? "M" : "L"}${point}`;
        area += `${begun === null ? "M" : "L"}${point}`;
        // One alone would be no line.
        if (begun === null && (values[s][n + 1] ?? null) === null) line += `h0.01`;
        begun ??= n;
        end = n;
      });
      if (begun !== null) area += `L${x(end)} ${y(0)}L${x(begun)} ${y(0)}Z`;
      if (one.kind === "area" && area) parts.push(svg("path", { class: `area ${one.style}`, d: area }));
      if (line) parts.push(svg("path", { class: `line ${one.style}`, d: line }));
    });
    if (!known.some((value) => value > 0)) {
      const nothing = svg("text", { class: "empty", x: (LEFT + width) / 2, y: HEIGHT / 2 - 4, "text-anchor": "middle" });
      nothing.textContent = "nothing in the last hour";
      parts.push(nothing);
    }
    if (pointed !== null && pointed < times.length) {
      parts.push(svg("line", { class: "cursor", x1: x(pointed), x2: x(pointed), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    canvas.replaceChildren(...parts);
    tell(pointed);
    const peaks = series.map((one, n) => `${one.name}: now ${format(values[n].at(-1) ?? 0)}, at most ${format(Math.max(0, ...values[n].map((v) => v ?? 0)))}`);
    canvas.setAttribute("aria-label", `${title} over the last hour. ${peaks.join("; ")}. Arrow keys read single points.`);
  }

  function point(index) {
    pointed = index === null || times.length === 0 ? null : Math.min(times.length - 1, Math.max(0, index));
    draw();
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    point(Math.round(share * (times.length - 1)));
  });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("blur", () => point(null));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    point((pointed ?? times.length - 1) + step);
  });
  new ResizeObserver(draw).observe(canvas);
  return (points, numbers) => {
    times = points;
    values = numbers;
    draw();
  };
}

// A share of a whole, as a bar.
export function fill(node, parts, whole) {
  let from = 0;
  const rects = parts.map(([amount, style]) => {
    const width = whole > 0 ? Math.max(0, Math.min(100 - from, (amount * 100) / whole)) : 0;
    const rect = svg("rect", { x: `${from}%`, y: 0, width: `${width}%`, height: "100%", class: style });
    from += width;
    return rect;
  });
  if (!node.canvas) {
    node.canvas = svg("svg", { "aria-hidden": "true" });
    node.replaceChildren(node.canvas);
  }
  node.canvas.replaceChildren(...rects);
}
