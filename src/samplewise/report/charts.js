// Value against tokens, one panel per kind of curve. Panels share both axes, so that accuracy reads against its ceiling.

const KINDS = [
  ["accuracy", "Accuracy", " of the chosen answer"],
  ["coverage", "Coverage", ", a right answer among the draws"],
];
const MARGIN = { top: 10, bottom: 42, left: 42 };
const hidden = new Set();
const panels = [];

const known = (point) => point.tokens !== null && point.tokens > 0 && point.value !== null;
const pointsOf = (series) => series.points.filter(known).sort((a, b) => a.tokens - b.tokens);
const shown = (kind) => report.series.filter((s) => s.kind === kind && !hidden.has(s.name) && pointsOf(s).length);
const namesShown = () => [...new Set(report.series.map((s) => s.name))];

function domain() {
  let points = report.series.filter((s) => !hidden.has(s.name)).flatMap(pointsOf);
  if (!points.length) points = report.series.flatMap(pointsOf);
  const xs = points.map((p) => Math.log10(p.tokens));
  const ys = points.flatMap((p) => [p.value, p.value_low ?? p.value, p.value_high ?? p.value]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const pad = Math.max((right - left) * 0.03, (0.42 - right + left) / 2); // 2 and 5 lie 0.4 apart: one tick at least
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => (high - low) / s <= 7) ?? 0.2;
  const bottom = Math.floor(low / step + 1e-9) * step;
  const top = Math.max(Math.ceil(high / step - 1e-9) * step, bottom + step);
  return { left: left - pad, right: right + pad, bottom, top, step };
}

function ticksX({ left, right }, width) {
  const ticks = [];
  for (let power = Math.floor(left); power <= right; power++) {
    for (const lead of [1, 2, 5]) {
      const at = power + Math.log10(lead);
      if (at >= left && at <= right) ticks.push({ at, value: lead * 10 ** power, major: lead === 1 });
    }
  }
  const some = ticks.filter((t) => width / ticks.length > 34 || t.major);
  return some.length > 1 ? some : ticks;
}

const shortCount = (value) =>
  value >= 1e6 ? `${value / 1e6}M` : value >= 1000 ? `${value / 1000}k` : String(Number(value.toPrecision(3)));

// Labels at the ends of the curves, pushed apart; none where they would not fit.
function placeLabels(ends, top, bottom, gap = 15) {
  if (ends.length * gap > bottom - top) return [];
  const labels = ends.map((end) => ({ ...end, at: end.y })).sort((a, b) => a.y - b.y);
  for (const [i, label] of labels.entries()) if (i) label.at = Math.max(label.at, labels[i - 1].at + gap);
  let lowest = bottom;
  for (const label of labels.reverse()) {
    label.at = Math.min(label.at, lowest);
    lowest = label.at - gap;
  }
  return labels;
}

// A baseline of one draw has one point; more tokens would not change it, so a dotted line goes on from there.
const isFlat = (series) => series.name === report.baseline && pointsOf(series).length === 1;

const clip = (text, length) => (text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text);

function drawSeries(series, x, y, x1) {
  const points = pointsOf(series);
  const flat = isFlat(series) ? `M${x(points[0].tokens) + 6} ${y(points[0].value)}H${x1}` : null;
  const group = drawSvg("g", { class: `series ${seriesClass(series.name)}`, "data-series": series.name });
  const banded = points.filter((p) => p.value_low !== null && p.value_high !== null);
  if (points.length > 1) {
    const edge = [...banded.map((p) => [p, p.value_high]), ...banded.toReversed().map((p) => [p, p.value_low])];
    const at = ([p, value]) => `${x(p.tokens)},${y(value)}`;
    if (banded.length > 1) group.append(drawSvg("polygon", { class: "band", points: edge.map(at).join(" ") }));
    group.append(drawSvg("polyline", { class: "line", points: points.map((p) => at([p, p.value])).join(" ") }));
  } else {
    if (flat) group.append(drawSvg("path", { class: "flat", d: flat }));
    for (const p of banded) {
      group.append(drawSvg("path", { class: "whisker", d: `M${x(p.tokens)} ${y(p.value_low)}V${y(p.value_high)}` }));
    }
  }
  for (const p of points) group.append(drawSvg("circle", { cx: x(p.tokens), cy: y(p.value), r: 2.8 }));
  return group;
}

function drawPanel(panel) {
  const { kind, title, svg } = panel;
  const range = domain();
  const width = Math.max(panel.figure.clientWidth, 240);
  const height = Math.round(Math.min(Math.max(width * 0.62, 250), 430));
  const series = shown(kind);
  const longest = Math.max(0, ...series.map((s) => s.name.length));
  const right = width < 420 ? 12 : Math.min(longest * 6.4 + 18, width * 0.32);
  const [x1, y1] = [width - right, height - MARGIN.bottom];
  const x = (value) => MARGIN.left + ((Math.log10(value) - range.left) / (range.right - range.left)) * (x1 - MARGIN.left);
  const y = (value) => y1 - ((value - range.bottom) / (range.top - range.bottom)) * (y1 - MARGIN.top);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const digits = range.step < 0.1 ? 2 : 1;
  for (let i = 0; range.bottom + i * range.step <= range.top + 1e-9; i++) {
    const value = range.bottom + i * range.step;
    svg.append(drawSvg("path", { class: "grid", d: `M${MARGIN.left} ${y(value)}H${x1}` }));
    svg.append(drawSvg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
  for (const tick of ticksX(range, x1 - MARGIN.left)) {
    svg.append(drawSvg("path", { class: "edge", d: `M${x(tick.value)} ${y1}v5` }));
    svg.append(drawSvg("text", { x: x(tick.value), y: y1 + 18, "text-anchor": "middle" }, shortCount(tick.value)));
  }
  svg.append(drawSvg("path", { class: "edge", d: `M${MARGIN.left} ${y1}H${x1}` }));
  const middle = { x: (MARGIN.left + x1) / 2, "text-anchor": "middle" };
  svg.append(drawSvg("text", { ...middle, y: height - 6 }, "mean tokens per problem (log scale)"));
  const budget = report.tokens;
  if (budget !== null && budget > 0 && Math.log10(budget) >= range.left && Math.log10(budget) <= range.right) {
    svg.append(drawSvg("path", { class: "budget", d: `M${x(budget)} ${MARGIN.top}V${y1}` }));
  }
  panel.points = [];
  const groups = new Map();
  for (const one of series) {
    const group = drawSeries(one, x, y, x1);
    const circles = group.querySelectorAll("circle");
    for (const [at, point] of pointsOf(one).entries()) {
      panel.points.push({ name: one.name, at, point, x: x(point.tokens), y: y(point.value), circle: circles[at] });
    }
    groups.set(one.name, group);
    svg.append(group);
  }
  if (right > 12) {
    const ends = series.map((s) => {
      const end = pointsOf(s).at(-1);
      return { name: s.name, x: isFlat(s) ? x1 : x(end.tokens), y: y(end.value) };
    });
    const early = ends.filter((end) => end.x < x1 - (x1 - MARGIN.left) / 3);
    for (const { name, x: left, y: top } of early) {
      groups.get(name).append(drawSvg("text", { class: "label near", x: left + 7, y: top + 14 }, clip(name, 24)));
    }
    for (const label of placeLabels(ends.filter((end) => !early.includes(end)), MARGIN.top + 4, y1)) {
      const left = x1 + 12;
      const words = clip(label.name, Math.floor((width - left) / 6.3));
      const text = drawSvg("text", { class: "label", x: left, y: label.at + 4 }, words);
      const leader = drawSvg("path", { class: "leader", d: `M${label.x + 5} ${label.y}L${left - 3} ${label.at}` });
      groups.get(label.name).append(leader, text);
    }
  }
  if (!series.length) svg.append(drawSvg("text", { ...middle, y: height / 2 }, `No ${title.toLowerCase()} shown`));
}

function showPoint(panel, spot) {
  panel.current?.circle.classList.remove("at");
  panel.current = spot;
  panel.tip.hidden = !spot;
  highlight(spot?.name ?? null);
  if (!spot) return;
  spot.circle.classList.add("at");
  const { point } = spot;
  const same = panel.points.filter((other) => Math.hypot(other.x - spot.x, other.y - spot.y) < 0.5);
  panel.tip.replaceChildren(
    ...same.map(({ name }) => make("b", {}, make("i", { class: `swatch ${seriesClass(name)}` }), name)),
    make("div", {}, `${panel.title} ${interval(point.value, point.value_low, point.value_high)}`),
    make("div", {}, `k = ${count(point.draws)}, ${count(point.tokens)} tokens per problem`),
  );
  const [box, outer] = [panel.svg.getBoundingClientRect(), panel.figure.getBoundingClientRect()];
  const scale = box.width / panel.svg.viewBox.baseVal.width;
  const [px, py] = [spot.x * scale, spot.y * scale + box.top - outer.top];
  const { offsetWidth: w, offsetHeight: h } = panel.tip;
  panel.tip.style.left = `${Math.max(0, Math.min(px + 12, panel.figure.clientWidth - w))}px`;
  panel.tip.style.top = `${py - h - 12 < 0 ? py + 14 : py - h - 12}px`;
}

function nearest(panel, event) {
  const box = panel.svg.getBoundingClientRect();
  const scale = panel.svg.viewBox.baseVal.width / box.width;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const far = (spot) => Math.hypot(spot.x - x, spot.y - y);
  const best = panel.points.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
  return best && far(best) < 60 ? best : null;
}

function walk(panel, key) {
  const now = panel.points.includes(panel.current) ? panel.current : null;
  if (!now) return panel.points[0] ?? null;
  const same = panel.points.filter((spot) => spot.name === now.name);
  if (key === "ArrowRight" || key === "ArrowLeft") return same[now.at + (key === "ArrowRight" ? 1 : -1)] ?? now;
  const names = [...new Set(panel.points.map((spot) => spot.name))];
  const next = names.at((names.indexOf(now.name) + (key === "ArrowDown" ? 1 : -1)) % names.length);
  const far = (spot) => Math.abs(spot.x - now.x);
  return panel.points.filter((spot) => spot.name === next).reduce((a, b) => (far(a) <= far(b) ? a : b));
}

function addPanel(parent, [kind, title, rest]) {
  const words = `${title}${rest}, against tokens per problem. Arrow keys move along the points.`;
  const svg = drawSvg("svg", { tabindex: 0, role: "img", "aria-label": words });
  const tip = make("div", { class: "tip", role: "status", hidden: true });
  const figure = make("figure", { class: "panel" }, make("figcaption", {}, title, make("small", {}, rest)), svg, tip);
  const panel = { kind, title, svg, tip, figure, points: [], current: null };
  parent.append(figure);
  panels.push(panel);
  for (const type of ["pointermove", "pointerdown"]) {
    svg.addEventListener(type, (event) => showPoint(panel, nearest(panel, event)));
  }
  svg.addEventListener("pointerleave", () => showPoint(panel, null));
  svg.addEventListener("blur", () => showPoint(panel, null));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") showPoint(panel, null);
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    showPoint(panel, walk(panel, event.key));
  });
}

function addLegend(legend) {
  for (const name of namesShown()) {
    const swatch = make("i", { class: `swatch ${seriesClass(name)}` });
    const button = make("button", { type: "button", "aria-pressed": "true", "data-series": name }, swatch, name);
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      panels.forEach(drawPanel);
      highlight(hidden.has(name) ? null : name);
    });
    highlightOn(button, name);
    legend.append(button);
  }
}

if (report.series.length) {
  const parent = document.querySelector(".panels");
  addLegend(document.querySelector(".legend"));
  const kinds = [...new Set(report.series.map((s) => s.kind))];
  for (const kind of KINDS) if (kinds.includes(kind[0])) addPanel(parent, kind);
  for (const kind of kinds) if (!KINDS.some(([name]) => name === kind)) addPanel(parent, [kind, kind, ""]);
  new ResizeObserver(() => panels.forEach(drawPanel)).observe(parent);
}
