// Sorts tables and draws curves and heat maps from the page's own data.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

function element(parent, name, attributes, text) {
  const child = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) child.setAttribute(key, value);
  if (text !== undefined) child.textContent = text;
  parent.append(child);
  return child;
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return +(value / unit).toPrecision(3) + name;
  }
  return String(+value.toPrecision(3));
}

// Round numbers inside [low, high], about `wanted` of them.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

const WIDTH = 360, HEIGHT = 220, LEFT = 52, RIGHT = 20, TOP = 10, BOTTOM = 26;

function axes(parent, label) {
  const svg = element(parent, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  parent.prepend(svg);
  return svg;
}

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

function frameTicks(svg, x, low, high) {
  for (const tick of ticks(low, high, 4)) {
    element(svg, "path", { class: "axis", d: `M${x(tick)},${HEIGHT - BOTTOM}v4` });
    element(svg, "text", { x: x(tick), y: HEIGHT - 6, "text-anchor": "middle" }, short(tick));
  }
}

function drawCurves(figure) {
  const { game, seeds, references } = data.curves[figure.dataset.index];
  const points = seeds.flatMap((seed) => [...seed.training, ...seed.evaluation, ...seed.score]);
  let low = Math.min(...points.map((point) => point[1])), high = Math.max(...points.map((point) => point[1]));
  const reach = high - low || Math.abs(high) || 1;
  // A reference far away would flatten the curve: the caption names it, and only a near one is drawn.
  const near = references.filter(([, value]) => value >= low - reach && value <= high + reach);
  low = Math.min(low, ...near.map(([, value]) => value));
  high = Math.max(high, ...near.map(([, value]) => value));
  const margin = (high - low || reach) * 0.06;
  low -= margin;
  high += margin;
  const last = Math.max(...points.map((point) => point[0])) || 1;
  const x = scale(0, last, LEFT, WIDTH - RIGHT), y = scale(low, high, HEIGHT - BOTTOM, TOP);
  const svg = axes(figure, `${game}: return against frames, ${seeds.length} ${seeds.length === 1 ? "run" : "runs"}`);
  element(svg, "path", { class: "axis", d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` });
  frameTicks(svg, x, 0, last);
  for (const tick of ticks(low, high, 4)) {
    element(svg, "path", { class: "axis", d: `M${LEFT},${y(tick)}h-4` });
    element(svg, "text", { x: LEFT - 6, y: y(tick) + 5, "text-anchor": "end" }, short(tick));
  }
  // The two may lie close together: one name above its line, the other below.
  const close = near.length === 2 && Math.abs(y(near[0][1]) - y(near[1][1])) < 18;
  for (const [name, value] of near) {
    element(svg, "path", { class: "reference", d: `M${LEFT},${y(value)}H${WIDTH - RIGHT}` });
    const place = y(value) + (close && name === "random" ? 14 : -4);
    element(svg, "text", { x: WIDTH - RIGHT, y: place, "text-anchor": "end" }, name);
  }
  for (const kind of ["training", "evaluation"]) {
    for (const seed of seeds) {
      const places = seed[kind].map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`);
      // A single point makes no line.
      if (places.length === 1) element(svg, "path", { class: `${kind} point`, d: `M${places[0]}h0` });
      else if (places.length) element(svg, "path", { class: kind, d: `M${places.join("L")}` });
    }
  }
  for (const seed of seeds) {
    for (const [frames, value] of seed.score) element(svg, "circle", { class: "score", cx: x(frames), cy: y(value), r: 4 });
  }
}

function drawBandit(figure) {
  const { name, frames, arms, values, percent } = data.bandits[figure.dataset.run][figure.dataset.kind];
  const cells = values.flat().filter((value) => value !== null);
  const low = percent ? 0 : Math.min(...cells), high = Math.max(...cells);
  const last = frames[frames.length - 1];
  const x = scale(0, last, LEFT, WIDTH - RIGHT), y = scale(0, arms, HEIGHT - BOTTOM, TOP);
  const svg = axes(figure, `${name}: arms over time, from ${short(low)} to ${short(high)}`);
  values.forEach((column, i) => {
    const from = x(i ? frames[i - 1] : 0), to = x(frames[i]);
    column.forEach((value, arm) => {
      if (value === null) return;
      const strength = 0.06 + 0.94 * ((value - low) / (high - low || 1));
      const shape = { class: "cell", x: from, y: y(arm + 1), width: to - from, height: y(arm) - y(arm + 1), "fill-opacity": strength.toFixed(2) };
      const cell = element(svg, "rect", shape);
      element(cell, "title", {}, `arm ${arm}, ${short(frames[i])} frames: ${short(value)}${percent ? "%" : ""}`);
    });
  });
  element(svg, "path", { class: "axis", d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` });
  frameTicks(svg, x, 0, last);
  for (let arm = 0; arm < arms; arm += Math.ceil(arms / 8)) {
    element(svg, "text", { x: LEFT - 6, y: (y(arm) + y(arm + 1)) / 2 + 5, "text-anchor": "end" }, arm);
  }
  figure.querySelector("figcaption").append(` Palest ${short(low)}${percent ? "%" : ""}, strongest ${short(high)}${percent ? "%" : ""}.`);
}

function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
  const numeric = header.classList.contains("number");
  // Numbers begin with the highest, names with the first.
  const before = header.getAttribute("aria-sort");
  const ascending = before ? before === "descending" : !numeric;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => (numeric ? Number(row.cells[column].dataset.value ?? NaN) : row.cells[column].textContent);
  const compare = (a, b) => {
    const first = key(a), second = key(b);
    if (!numeric) return (ascending ? 1 : -1) * first.localeCompare(second, "en", { numeric: true });
    // What has no value comes last in both directions.
    if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
    return (ascending ? 1 : -1) * (first - second);
  };
  body.append(...[...body.rows].sort(compare));
}

for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sortBy(button.parentElement));
for (const figure of document.querySelectorAll("figure.curves")) drawCurves(figure);
for (const details of document.querySelectorAll("details.bandit")) {
  // Thousands of cells a run: drawn when they are looked at.
  const draw = () => details.querySelectorAll("figure").forEach(drawBandit);
  if (details.open) draw();
  else details.addEventListener("toggle", draw, { once: true });
}
