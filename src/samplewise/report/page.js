// What the page's parts share: making elements (texts are only ever set as text), numbers, the highlight, the sorting of the
// table. The other files follow it in one module.

const report = JSON.parse(document.getElementById("report").textContent);
const SVG = "http://www.w3.org/2000/svg";
const UNKNOWN = "–";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const make = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const drawSvg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

function number(value, digits = 3) {
  return value === null ? UNKNOWN : value.toFixed(digits).replace("-", "−");
}

function interval(value, low, high) {
  if (value === null) return UNKNOWN;
  return low === null || high === null ? number(value) : `${number(value)} [${number(low)}, ${number(high)}]`;
}

function count(value) {
  if (value === null) return UNKNOWN;
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

// The colour of a name; `series_class` in rows.py must agree.
function seriesClass(name) {
  const at = report.names.indexOf(name);
  return at < 0 ? "c-base" : `c${at % 8}${at >= 8 ? " dashed" : ""}`;
}

// One name stands out everywhere it appears: table row, legend, curves.
function highlight(name) {
  for (const node of document.querySelectorAll("[data-series]")) node.classList.toggle("hot", node.dataset.series === name);
  document.querySelector(".panels")?.classList.toggle("focused", Boolean(document.querySelector(".panels .series.hot")));
}

function highlightOn(node, name) {
  for (const type of ["pointerenter", "focusin"]) node.addEventListener(type, () => highlight(name));
  for (const type of ["pointerleave", "focusout"]) node.addEventListener(type, () => highlight(null));
}

function sortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => row.cells[at].dataset.sort;
  for (const [at, head] of heads.entries()) {
    const isText = head.dataset.kind === "text";
    head.querySelector("button")?.addEventListener("click", () => {
      const down = head.ariaSort === "none" ? !isText : head.ariaSort === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.ariaSort = "none";
      head.ariaSort = down ? "descending" : "ascending";
      const order = (a, b) => (isText ? a.localeCompare(b) : Number(a) - Number(b)) * (down ? -1 : 1);
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one, at), key(two, at)];
        return a === "" || b === "" ? (a === "") - (b === "") : order(a, b); // unknown stands last, either way
      });
      body.append(...rows);
    });
  }
}

for (const table of document.querySelectorAll("table.methods:not(.explored)")) sortable(table);
for (const row of document.querySelectorAll("tr.method")) highlightOn(row, row.dataset.series);
