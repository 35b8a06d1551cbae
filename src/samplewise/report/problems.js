// The browser of problems and draws. The list is made at once from the index; the draws of a problem are unpacked when it
// is opened (compact.py packs them). `#problem=ID&pool=1&draw=13` opens a problem, a pool, a draw.

const FILTERS = [
  ["all", "All", "every problem"],
  ["solved", "Solved", "some method chose a right answer"],
  ["unsolved", "Unsolved", "no method chose a right answer"],
  ["disagree", "Methods disagree", "some chose a right answer, some a wrong one"],
  ["missed", "Right but not chosen", "a right answer was drawn, and no method chose it"],
];
const PAGE = 100; // draws made at once
const FOLD = 420; // characters from which a text folds
const { problems, choices, recipes } = report.index;
const view = { open: -1, filter: "all", query: "", links: [], article: null, list: null, shown: null };
const unpacked = new Map();

async function unpack(at) {
  if (!unpacked.has(at)) {
    const bytes = Uint8Array.from(atob(document.getElementById(`draws-${at}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(at, JSON.parse(await new Response(stream).text()));
  }
  return unpacked.get(at);
}

// "right", "wrong", "part" or "unknown", and its words
function verdict(grade) {
  if (grade === "") return ["absent", "not run"];
  if (grade === "none") return ["wrong", "no answer"];
  if (grade === null) return ["unknown", "unknown"];
  if (grade >= 1 - 1e-9) return ["right", "right"];
  return grade > 0 ? ["part", `partly, ${number(grade, 2)}`] : ["wrong", "wrong"];
}

function badge(grade) {
  const [kind, words] = verdict(grade);
  return make("span", { class: `badge ${kind}` }, words);
}

function address(problem, pool = null, draw = null) {
  const parts = [["problem", problem.id], ["pool", pool], ["draw", draw]];
  const known = parts.filter(([, value]) => value !== null);
  return `#${known.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
}

const choiceName = ([recipe, selector]) => (recipes.length > 1 ? `${recipes[recipe]}: ${selector}` : selector);

function addList() {
  view.links = problems.map((problem) => {
    const words = choices.map((choice, i) => `${choiceName(choice)}: ${verdict(problem.marks[i])[1]}`).join("\n");
    const marks = make("span", { class: "marks", role: "img", "aria-label": words, title: words });
    marks.append(...problem.marks.map((grade) => make("i", { class: verdict(grade)[0] })));
    const top = make("div", { class: "top" }, make("span", { class: "id" }, problem.id), marks);
    const link = make("a", { href: address(problem) }, top, make("div", { class: "prompt" }, problem.prompt.slice(0, 200)));
    view.list.append(make("li", {}, link));
    return link;
  });
  view.list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const visible = view.links.filter((link) => !link.parentElement.hidden);
    visible[visible.indexOf(document.activeElement) + step]?.focus();
  });
}

function addFilters(parent) {
  for (const [name, words, title] of FILTERS) {
    const num = name === "all" ? problems.length : problems.filter((p) => p.tags.includes(name)).length;
    if (!num && (name === "missed" || name === "disagree")) continue;
    const settings = { type: "button", title, "aria-pressed": String(name === view.filter) };
    const button = make("button", settings, `${words} `, make("small", {}, String(num)));
    button.addEventListener("click", () => {
      view.filter = name;
      for (const other of parent.children) other.setAttribute("aria-pressed", String(other === button));
      filterList();
    });
    parent.append(button);
  }
}

function filterList() {
  const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
  let num = 0;
  problems.forEach((problem, i) => {
    problem.haystack ??= `${problem.id}\n${problem.prompt}\n${problem.reference}`.toLowerCase();
    const passes = view.filter === "all" || problem.tags.includes(view.filter);
    const visible = passes && words.every((word) => problem.haystack.includes(word));
    view.links[i].parentElement.hidden = !visible;
    num += visible;
  });
  const total = `${problems.length} problem${problems.length === 1 ? "" : "s"}`;
  document.querySelector("#problems .count").textContent = num === problems.length ? total : `${num} of ${total}`;
}

function folding(text, kind) {
  const node = make("pre", { class: `text ${kind}`, dir: "auto" }, text);
  if (text.length <= FOLD && text.split("\n").length <= 6) return [node];
  node.classList.add("folded");
  const button = make("button", { type: "button", class: "unfold", "aria-expanded": "false" }, "show all");
  button.addEventListener("click", () => {
    const folded = node.classList.toggle("folded");
    button.textContent = folded ? "show all" : "show less";
    button.setAttribute("aria-expanded", String(!folded));
  });
  return [node, button];
}

function neighbour(step) {
  for (let i = view.open + step; i >= 0 && i < problems.length; i += step) if (!view.links[i].parentElement.hidden) return i;
  return -1;
}

function turner(step, words) {
  const at = neighbour(step);
  return at < 0 ? null : make("a", { href: address(problems[at]) }, words);
}

// A row per pool, which opens it; a column per selector, with what it chose.
function poolsTable(problem, data, open) {
  const selectors = [...new Set(data.pools.flatMap((columns) => columns.chosen.map(([selector]) => selector)))];
  const rows = data.pools.map((columns, pool) => {
    const button = make("button", { type: "button" }, make("code", {}, columns.recipe));
    const chosen = new Map(columns.chosen);
    const cell = (selector) => (chosen.has(selector) ? choice(problem, data, pool, chosen.get(selector)) : null);
    const cells = selectors.map((selector) => make("td", {}, cell(selector)));
    const right = columns.grade.filter((grade) => verdict(grade)[0] === "right").length;
    button.addEventListener("click", () => open(pool));
    return make("tr", {}, make("th", { scope: "row" }, button), make("td", {}, `${right} of ${columns.grade.length}`), ...cells);
  });
  const names = ["Pool", "Right", ...selectors.map((selector) => `${selector} chose`)];
  const head = make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  return make("div", { class: "scroll pools" }, make("table", {}, head, make("tbody", {}, ...rows)));
}

function choice(problem, data, pool, draw) {
  const columns = data.pools[pool];
  if (draw === null) return badge("none");
  const answer = columns.answer[draw] ?? null;
  const text = answer === null ? "no answer read" : clip(data.strings[answer], 40);
  const link = make("a", { href: address(problem, pool, draw), class: "answer", title: `draw ${draw}` }, text);
  return make("span", { class: "choice" }, badge(columns.grade[draw] ?? null), link);
}

// Answers by how often they were given; equal answers have one grade.
function tally(columns) {
  const entries = new Map();
  columns.answer.forEach((answer, i) => {
    const entry = entries.get(answer) ?? { answer, num: 0, grade: columns.grade[i] };
    entry.num += 1;
    entry.grade ??= columns.grade[i];
    entries.set(answer, entry);
  });
  return [...entries.values()].sort((a, b) => b.num - a.num);
}

function drawItem(problem, data, pool, i) {
  const columns = data.pools[pool];
  const by = columns.chosen.filter(([, at]) => at === i).map(([selector]) => selector);
  const answer = columns.answer[i] === null ? null : data.strings[columns.answer[i]];
  const [arm, finish] = [data.strings[columns.arm[i]], data.strings[columns.finish[i]]];
  const facts = [arm, `${count(columns.tokens[i])} tokens`];
  if (columns.logp[i] !== null) facts.push(`log-prob ${number(columns.logp[i], 1)}`);
  if ((columns.logq?.[i] ?? null) !== null) facts.push(asDrawn(columns.logp[i], columns.logq[i]));
  for (const [name, values] of columns.scores) facts.push(`${name} ${values[i] === null ? UNKNOWN : number(values[i])}`);
  if (finish !== "stop") facts.push(`ended by ${finish}`);
  const link = make("a", { class: "at", href: address(problem, pool, i), title: "link to this draw" }, `#${i}`);
  const [kind, words] = answer === null ? ["none", "no answer read"] : ["answer", clip(answer, 200)];
  const read = make("span", { class: kind }, words);
  const side = make("div", { class: "side" },
    make("div", { class: "head" }, link, badge(columns.grade[i]), read),
    make("div", { class: "meta" }, ...facts.map((fact) => make("span", {}, fact))),
    by.length ? make("div", { class: "by" }, `chosen by ${by.join(", ")}`) : null);
  const classes = `draw${by.length ? " chosen" : ""}${i === view.shown ? " target" : ""}`;
  return make("li", { class: classes, id: `draw-${i}` }, side, make("div", {}, ...folding(data.strings[columns.text[i]], "")));
}

// The log-prob under the distribution drawn from, for draws that explored, and how much likelier that made the draw.
function asDrawn(logp, logq) {
  const gap = logp === null ? "" : ` (gap ${logq < logp ? "" : "+"}${number(logq - logp, 1)})`;
  return `as drawn ${number(logq, 1)}${gap}`;
}

const ORDERS = { "as drawn": null, tokens: "tokens", "log-prob": "logp", grade: "grade" };

function renderPool(parent, problem, data, pool) {
  const columns = data.pools[pool];
  const state = { answer: undefined, order: "as drawn" };
  const list = make("ol", { class: "draws" });
  const more = make("button", { type: "button", class: "more" });
  const rest = { at: [] };
  const addSome = (num) => {
    list.append(...rest.at.splice(0, num).map((i) => drawItem(problem, data, pool, i)));
    more.hidden = !rest.at.length;
    more.textContent = `show ${Math.min(PAGE, rest.at.length)} more of ${rest.at.length}`;
  };
  const refill = (least = PAGE) => {
    rest.at = columns.text.map((_, i) => i).filter((i) => state.answer === undefined || columns.answer[i] === state.answer);
    const column = ORDERS[state.order] ? columns[ORDERS[state.order]] : columns.scores.find(([name]) => name === state.order)?.[1];
    if (column) rest.at.sort((a, b) => (column[b] ?? -Infinity) - (column[a] ?? -Infinity) || a - b);
    list.replaceChildren();
    addSome(least);
  };
  more.addEventListener("click", () => addSome(PAGE));
  const answers = make("div", { class: "answers", role: "group", "aria-label": "Show one answer" });
  const entries = tally(columns);
  for (const { answer, num, grade } of entries.slice(0, 12)) {
    const text = answer === null ? "no answer read" : clip(data.strings[answer], 40);
    const mark = make("span", { class: "marks" }, make("i", { class: verdict(grade)[0] }));
    const words = [mark, make("span", { class: "answer" }, text), make("small", {}, `×${num}`)];
    const button = make("button", { type: "button", "aria-pressed": "false", title: verdict(grade)[1] }, ...words);
    button.addEventListener("click", () => {
      const same = state.answer === answer;
      state.answer = same ? undefined : answer;
      for (const other of answers.children) other.setAttribute("aria-pressed", String(other === button && !same));
      refill();
    });
    answers.append(button);
  }
  if (entries.length > 12) answers.append(make("small", {}, `and ${entries.length - 12} other answers`));
  const select = make("select", { "aria-label": "Order of draws" });
  const orders = [...Object.keys(ORDERS), ...columns.scores.map(([name]) => name)];
  for (const name of orders) select.append(make("option", { value: name }, name));
  select.addEventListener("change", () => {
    state.order = select.value;
    refill();
  });
  parent.replaceChildren(answers, make("div", { class: "tools" }, make("label", {}, "Order ", select)), list, more);
  refill(Math.max(PAGE, (view.shown ?? 0) + 1));
}

// scrollIntoView would move the page as well
function showInList(link) {
  const [box, outer] = [link.getBoundingClientRect(), view.list.getBoundingClientRect()];
  if (box.top < outer.top) view.list.scrollTop -= outer.top - box.top;
  if (box.bottom > outer.bottom) view.list.scrollTop += box.bottom - outer.bottom;
}

async function openProblem(at, pool, draw) {
  view.open = at;
  const data = await unpack(at);
  if (view.open !== at) return; // another was opened meanwhile
  view.shown = draw;
  const problem = problems[at];
  view.links.forEach((link, i) => (i === at ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  showInList(view.links[at]);
  const draws = make("div");
  const open = (at) => {
    renderPool(draws, problem, data, at);
    for (const [i, row] of [...pools.querySelectorAll("tbody tr")].entries()) {
      row.classList.toggle("open", i === at);
      row.querySelector("button").setAttribute("aria-pressed", String(i === at));
    }
  };
  const pools = poolsTable(problem, data, (at) => {
    view.shown = null;
    open(at);
  });
  const turn = make("span", { class: "turn" }, turner(-1, "previous"), turner(1, "next"));
  const head = make("header", {}, make("h3", {}, problem.id), turn);
  const prompt = make("div", {}, ...folding(problem.prompt, "prompt-text"));
  const reference = [make("h4", {}, "Reference"), make("div", { class: "answer" }, problem.reference)];
  view.article.replaceChildren(head, make("h4", {}, "Prompt"), prompt, ...(problem.reference === "" ? [] : reference));
  if (data.pools.length) {
    view.article.append(pools, draws);
    open(data.pools[pool] ? pool : 0);
  } else view.article.append(make("p", { class: "none" }, "This problem has no draws."));
}

async function follow(first = false) {
  const hash = new URLSearchParams(location.hash.slice(1));
  const at = problems.findIndex((problem) => problem.id === hash.get("problem"));
  if (at < 0 && !first) return;
  const [pool, draw] = [Number(hash.get("pool") ?? 0), hash.has("draw") ? Number(hash.get("draw")) : null];
  await openProblem(Math.max(at, 0), at < 0 ? 0 : pool, at < 0 ? null : draw);
  if (at < 0) return;
  const target = draw === null ? null : document.getElementById(`draw-${draw}`);
  if (target) target.scrollIntoView({ block: "center" });
  else view.article.scrollIntoView({ block: "start" });
}

if (problems.length) {
  view.article = document.querySelector("#problems .problem");
  view.list = document.querySelector("#problems .list");
  addFilters(document.querySelector("#problems .filters"));
  addList();
  filterList();
  document.getElementById("search").addEventListener("input", (event) => {
    view.query = event.target.value;
    filterList();
  });
  window.addEventListener("hashchange", () => follow());
  follow(true);
}
