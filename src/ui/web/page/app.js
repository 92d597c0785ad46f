// The cluster as the daemon tells it, drawn. The token came in the address and is kept by this page only.

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
sessionStorage.setItem("token", token);
history.replaceState(null, "", location.pathname);

const MAX_TANKS = 60;
const MAX_MARKS = 40;
const MAX_ROWS = 500;
const MOVE_MS = 700;
const POINTS = 360;
const SIGNALS = ["TERM", "INT", "HUP", "QUIT", "KILL", "STOP", "CONT", "USR1", "USR2"];

const cluster = { nodes: new Map(), programs: new Map(), moves: new Map(), history: {}, broken: {}, readOnly: false };
let search = "";
let shownProgram = null;
let shownNode = null;

// ---- what the daemon tells

const nameOf = (program) => `${program.home}/${program.pid}`;
const keys = { nodes: (row) => row.node, programs: nameOf, moves: (row) => row.id };

function take(message) {
  switch (message.type) {
    case "whole":
      for (const kind of Object.keys(keys)) {
        cluster[kind] = new Map(message[kind].map((row) => [keys[kind](row), row]));
      }
      Object.assign(cluster, { history: message.history, broken: message.broken, readOnly: message.read_only });
      break;
    case "nodes":
    case "programs":
    case "moves": {
      const rows = cluster[message.type];
      if (message.whole) rows.clear();
      message.deleted.forEach((key) => rows.delete(key));
      message.put.forEach((row) => rows.set(keys[message.type](row), row));
      if (message.type === "moves") message.put.forEach(arrived);
      break;
    }
    case "broken":
      cluster.broken = message.broken;
      break;
    case "points":
      for (const [node, point] of Object.entries(message.points)) {
        const points = (cluster.history[node] ??= []);
        points.push(point);
        if (points.length > POINTS) points.shift();
      }
      break;
  }
  drawSoon();
}

// Rows of programs come each second; that a move has ended is told at once.
function arrived(move) {
  const program = cluster.programs.get(move.process);
  if (program && move.state === "run" && Date.now() - move.end_time_ms < 3000) program.runs_on = move.target;
}

// EventSource cannot send a header, so the stream is read by hand.
async function follow() {
  for (;;) {
    try {
      const answer = await fetch("/api/events", { headers: { Authorization: `Bearer ${token}` } });
      if (answer.status === 401) {
        tell((await answer.json()).error, true);
        $("summary").textContent = "Not connected";
        return;
      }
      if (!answer.ok) throw new Error((await answer.json()).error);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:"));
          if (data.length > 0) take(JSON.parse(data.map((line) => line.slice(5).trimStart()).join("\n")));
        }
      }
      throw new Error("`scx_mosix web` ended the stream");
    } catch (error) {
      cluster.broken = { page: error.message };
      drawSoon();
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

// ---- what the user wants

function tell(text, bad = false) {
  $("said").textContent = text;
  $("said").className = bad ? "bad" : "";
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => ($("said").textContent = ""), 15000);
}

async function want(command) {
  try {
    const answer = await fetch("/api/do", {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(command),
    });
    const said = await answer.json();
    tell(said.said ?? said.error, !answer.ok);
  } catch (error) {
    tell(`not done: ${error.message}`, true);
  }
}

// Asks before it does harm.
async function ask(question, command) {
  $("ask-title").textContent = question;
  $("ask").returnValue = "no";
  $("ask").showModal();
  await new Promise((resolve) => $("ask").addEventListener("close", resolve, { once: true }));
  if ($("ask").returnValue === "yes") await want(command);
}

// ---- words and figures

const UNITS = ["B", "K", "M", "G", "T", "P"];
function size(bytes) {
  let unit = 0;
  while (bytes >= 999.5 && unit < 5) {
    bytes /= 1024;
    unit += 1;
  }
  return bytes.toFixed(unit > 0 && bytes < 9.95 ? 1 : 0) + UNITS[unit];
}
const used = (node) => (node.memory_total_bytes ? 1 - node.memory_available_bytes / node.memory_total_bytes : 0);
const percent = (share) => `${Math.round(share * 100)} %`;
// Load per CPU, of which 1 keeps all CPUs busy.
const busy = (node) => (node.local ? node.cpu_busy_percent / 100 : Math.min(node.load, 1));
const command = (program) => program.command_line.join(" ") || `[${program.comm}]`;
const age = (ms) => {
  const s = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
};
const ENDS = new Set(["run", "aborted", "failed"]);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// ---- the picture

const tanks = new Map();
const marks = new Map();

function level(kind, label) {
  return element("div", { class: `level ${kind}`, title: label }, element("i"), element("b"));
}

function tankOf(name) {
  let tank = tanks.get(name);
  if (!tank) {
    const title = element("button", { class: "name", onclick: () => openNode(name) });
    tank = { title, cpu: level("cpu", "CPU"), memory: level("memory", "memory in use"), marks: element("ul", { class: "marks" }) };
    tank.root = element("li", { class: "tank", "data-node": name }, title, tank.cpu, tank.memory, tank.marks);
    tanks.set(name, tank);
  }
  return tank;
}

function setLevel(meter, share, name) {
  meter.firstChild.style.height = `${Math.min(share, 1) * 100}%`;
  meter.lastChild.textContent = `${name} ${percent(share)}`;
}

function drawPicture() {
  const nodes = [...cluster.nodes.values()].sort((a, b) => a.node.localeCompare(b.node, undefined, { numeric: true }));
  const shown = nodes.slice(0, MAX_TANKS);
  const before = new Map([...marks].map(([name, mark]) => [name, mark.isConnected ? mark.getBoundingClientRect() : null]));
  const here = new Map(shown.map((node) => [node.node, []]));
  for (const program of cluster.programs.values()) here.get(program.runs_on)?.push(program);
  for (const [name, mark] of marks) {
    if (!cluster.programs.has(name)) {
      mark.parentElement.remove();
      marks.delete(name);
    }
  }
  for (const [name, tank] of tanks) {
    if (!here.has(name)) {
      tank.root.remove();
      tanks.delete(name);
    }
  }
  shown.forEach((node, at) => {
    const tank = tankOf(node.node);
    if ($("tanks").children[at] !== tank.root) $("tanks").insertBefore(tank.root, $("tanks").children[at] ?? null);
    tank.root.classList.toggle("dead", node.state === "dead");
    const state = node.state === "alive" ? `load ${node.load.toFixed(2)}` : node.state;
    tank.title.replaceChildren(
      element("span", {}, node.node + (node.local ? " *" : "")),
      element("span", { class: node.state === "alive" ? "state" : "state bad" }, state),
    );
    setLevel(tank.cpu, busy(node), "CPU");
    setLevel(tank.memory, used(node), "mem");
    const programs = here.get(node.node).sort((a, b) => b.cpu_percent - a.cpu_percent || a.pid - b.pid);
    programs.slice(0, MAX_MARKS).forEach((program) => drawMark(program, tank.marks));
    programs.slice(MAX_MARKS).forEach((program) => marks.get(nameOf(program))?.parentElement.remove());
  });
  $("more-nodes").hidden = nodes.length <= MAX_TANKS;
  $("more-nodes").textContent = `${nodes.length - MAX_TANKS} more machines are in the table below.`;
  slide(before);
}

function drawMark(program, into) {
  const name = nameOf(program);
  let mark = marks.get(name);
  if (!mark) {
    mark = element("button", { class: "mark", "data-program": name, onclick: () => openProgram(name) });
    element("li", {}, mark);
    marks.set(name, mark);
  }
  if (mark.parentElement.parentElement !== into) into.append(mark.parentElement);
  mark.textContent = program.comm || program.pid;
  mark.classList.toggle("guest", program.home !== program.runs_on);
  mark.classList.toggle("moving", program.state === "moving");
  const label = `${program.comm} ${name}, runs on ${program.runs_on}, home ${program.home}, ${program.state}`;
  mark.setAttribute("aria-label", label);
  mark.title = command(program);
}

// Lets marks slide from where they were to where they are.
function slide(before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const [name, mark] of marks) {
    const from = before.get(name);
    if (!from || !mark.isConnected) continue;
    const to = mark.getBoundingClientRect();
    const [x, y] = [from.left - to.left, from.top - to.top];
    if (Math.hypot(x, y) > 40) {
      mark.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], { duration: MOVE_MS, easing: "ease-in-out" });
    }
  }
}

// ---- tables

const text = (title, value, more = {}) => ({ title, value, show: value, ...more });
const number = (title, value, show = value, more = {}) => ({ title, value, show, number: true, ...more });

const TABLES = {
  programs: {
    sort: ["CPU %", -1],
    open: (row) => openProgram(nameOf(row)),
    columns: [
      number("PID", (p) => p.pid),
      text("User", (p) => p.user),
      text("Home", (p) => p.home),
      text("Runs on", (p) => p.runs_on),
      text("State", (p) => p.state),
      number("CPU %", (p) => p.cpu_percent, (p) => p.cpu_percent.toFixed(1)),
      number("Memory %", (p) => p.memory_percent, (p) => p.memory_percent.toFixed(1)),
      number("RSS", (p) => p.resident_bytes, (p) => size(p.resident_bytes)),
      number("Moves", (p) => p.moves),
      number("Age", (p) => -(p.start_time_ms ?? 0), (p) => (p.start_time_ms ? age(p.start_time_ms) : "")),
      text("Directory", (p) => p.cwd),
      text("Command", command, { open: true }),
      text("Cannot move", (p) => p.cannot_move ?? "", { wide: true }),
    ],
  },
  moves: {
    sort: ["Started", -1],
    columns: [
      number("Started", (m) => m.create_time_ms, (m) => `${age(m.create_time_ms)} ago`),
      text("Program", (m) => m.process),
      text("From", (m) => m.source),
      text("To", (m) => m.target),
      text("State", (m) => (m.state === "run" ? "done" : m.state)),
      number("Stopped", (m) => m.downtime_us ?? -1, (m) => (m.downtime_us == null ? "" : `${Math.round(m.downtime_us / 1000)} ms`)),
      number("Sent", (m) => m.wire_bytes, (m) => size(m.wire_bytes)),
      text("Why", (m) => m.reason, { wide: true }),
    ],
  },
  nodes: {
    sort: ["Machine", 1],
    open: (row) => openNode(row.node),
    columns: [
      text("Machine", (n) => n.node, { open: true }),
      text("State", (n) => n.state),
      number("CPUs", (n) => n.cpus),
      number("Speed", (n) => n.cpu_speed, (n) => n.cpu_speed.toFixed(2)),
      number("Load", (n) => n.load, (n) => n.load.toFixed(2)),
      number("Memory free", (n) => n.memory_available_bytes, (n) => size(n.memory_available_bytes)),
      number("Memory", (n) => n.memory_total_bytes, (n) => size(n.memory_total_bytes)),
      number("Memory pressure", (n) => n.pressure.memory_some_percent, (n) => n.pressure.memory_some_percent.toFixed(1)),
      number("Guests", (n) => n.guests),
      text("sched_ext", (n) => n.sched_ext),
      text("Kernel", (n) => n.kernel_release),
      text("Takes no guests", (n) => n.refuses_because ?? "", { wide: true }),
    ],
  },
};

function makeHead(kind) {
  const table = TABLES[kind];
  const cells = table.columns.map(({ title, number }) => {
    const sort = () => {
      table.sort = table.sort[0] === title ? [title, -table.sort[1]] : [title, number ? -1 : 1];
      drawSoon();
    };
    return element("th", { scope: "col", class: number ? "number" : null, "data-title": title }, element("button", { onclick: sort }, title));
  });
  $(`${kind}-table`).tHead.replaceChildren(element("tr", {}, ...cells));
}

const matches = (columns, row) => columns.some((column) => String(column.show(row)).toLowerCase().includes(search));

function drawTable(kind) {
  const { columns, sort, open } = TABLES[kind];
  const by = columns.find((column) => column.title === sort[0]);
  let rows = [...cluster[kind].values()];
  if (kind === "programs" && search) rows = rows.filter((row) => matches(columns, row));
  rows.sort((a, b) => {
    const [x, y] = [by.value(a), by.value(b)];
    return sort[1] * (by.number ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
  });
  for (const cell of $(`${kind}-table`).tHead.rows[0].cells) {
    const direction = sort[1] > 0 ? "ascending" : "descending";
    if (cell.dataset.title === sort[0]) cell.setAttribute("aria-sort", direction);
    else cell.removeAttribute("aria-sort");
  }
  // Rows are used again, so that what has the focus keeps it.
  const body = $(`${kind}-table`).tBodies[0];
  const count = Math.min(rows.length, MAX_ROWS);
  while (body.rows.length > count) body.deleteRow(-1);
  while (body.rows.length < count) body.append(makeRow(columns, open));
  rows.slice(0, count).forEach((row, at) => {
    const line = body.rows[at];
    line.row = row;
    columns.forEach((column, n) => {
      const cell = line.cells[n].firstElementChild ?? line.cells[n];
      const shown = String(column.show(row));
      if (cell.textContent !== shown) cell.textContent = shown;
    });
  });
  if (kind === "programs") {
    $("programs-more").hidden = rows.length <= MAX_ROWS;
    $("programs-more").textContent = `${rows.length - MAX_ROWS} more: search for them.`;
  }
}

function makeRow(columns, open) {
  const line = element("tr");
  for (const column of columns) {
    const cell = element("td", { class: column.number ? "number" : column.wide ? "wide" : null });
    if (column.open) cell.append(element("button", { onclick: () => open(line.row) }));
    line.append(cell);
  }
  return line;
}

// ---- one program

const facts = (pairs) => pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]);

function openProgram(name) {
  shownProgram = name;
  drawProgram();
  askWhy();
  if (!$("program").open) $("program").showModal();
}

function drawProgram() {
  const program = cluster.programs.get(shownProgram);
  if (!program) {
    $("program").close();
    return;
  }
  $("program-title").textContent = `${program.comm} (${shownProgram})`;
  $("facts").replaceChildren(
    ...facts([
      ["Command", command(program)],
      ["User", program.user],
      ["Home", program.home],
      ["Runs on", program.runs_on],
      ["State", program.state],
      ["Memory", size(program.resident_bytes)],
      ["CPU", `${program.cpu_percent.toFixed(1)} %`],
      ["Directory", program.cwd],
      ["Has been at", program.visited.join(", ")],
      ["Cannot move", program.cannot_move ?? "–"],
    ]),
  );
  const targets = [...cluster.nodes.values()].filter((node) => node.state === "alive" && node.node !== program.runs_on);
  const names = ["best", ...targets.map((node) => node.node).sort()];
  if (names.join() !== [...$("target").options].map((option) => option.value).join()) {
    const chosen = $("target").value;
    $("target").replaceChildren(...names.map((node) => element("option", { value: node }, node === "best" ? "the best" : node)));
    if (names.includes(chosen)) $("target").value = chosen;
  }
  const move = [...cluster.moves.values()].find((move) => move.process === shownProgram && !ENDS.has(move.state));
  $("cancel").hidden = !move;
  $("cancel").dataset.migration = move?.id ?? "";
  $("home").disabled = cluster.readOnly || program.home === program.runs_on;
  $("stay").textContent = program.stay ? "Let it move by itself" : "Let it stay";
  for (const id of ["move", "stay", "cancel", "send"]) $(id).disabled = cluster.readOnly;
}

async function askWhy() {
  const asked = shownProgram;
  const [node, pid] = asked.split("/");
  try {
    const answer = await fetch(`/api/why/${encodeURIComponent(node)}/${pid}`, { headers: { Authorization: `Bearer ${token}` } });
    const why = await answer.json();
    if (asked === shownProgram) drawWhy(why);
  } catch (error) {
    $("why").textContent = `not known: ${error.message}`;
  }
}

// The compared costs as a chart: a bar each, with its figure beside it.
function drawWhy(why) {
  // The verdict is the summary already.
  const others = (why.reasons ?? []).map((reason) => reason.text).filter((line) => line.replace(/^stays: /, "") !== why.summary);
  $("why").textContent = why.error ?? [why.summary, ...others].join("; ");
  const candidates = why.candidates ?? [];
  const figure = (candidate, name) => candidate.figures.find((figure) => figure.name === name)?.value;
  const here = candidates.map((candidate) => figure(candidate, "cost here")).find((value) => value != null);
  const costs = candidates.map((candidate) => [candidate.node, figure(candidate, "cost there"), candidate.chosen, candidate.text]);
  if (here != null) costs.unshift(["where it is", here, false, "it costs nothing to stay"]);
  const most = Math.max(...costs.map(([, cost]) => cost ?? 0), Number.MIN_VALUE);
  const rows = costs.map(([node, cost, chosen, said]) => {
    const bar = element("span", { class: "cost", "aria-hidden": "true" });
    bar.style.width = cost == null ? "0" : `${Math.max(1, (cost / most) * 100)}%`;
    const cells = [element("td", {}, node), element("td", { class: "number" }, cost == null ? "–" : cost.toFixed(2)), element("td", {}, bar), element("td", { class: "wide" }, said)];
    return element("tr", { class: chosen ? "chosen" : null }, ...cells);
  });
  $("costs").hidden = rows.length === 0;
  const titles = ["Machine", "Cost", "Compared", "Why"].map((title) => element("th", { scope: "col" }, title));
  $("costs").tHead.replaceChildren(element("tr", {}, ...titles));
  $("costs").tBodies[0].replaceChildren(...rows);
}

// ---- one machine

function openNode(name) {
  shownNode = name;
  drawNode();
  if (!$("node").open) $("node").showModal();
}

function drawNode() {
  const node = cluster.nodes.get(shownNode);
  if (!node) {
    $("node").close();
    return;
  }
  $("node-title").textContent = node.node;
  $("node-facts").replaceChildren(
    ...facts([
      ["State", node.state],
      ["Address", node.address ?? "–"],
      ["CPUs", `${node.cpus} of speed ${node.cpu_speed.toFixed(2)}`],
      ["Load", node.load.toFixed(2)],
      ["Memory", `${size(node.memory_available_bytes)} free of ${size(node.memory_total_bytes)}`],
      ["Guests", node.guests],
      ["Takes no guests", node.refuses_because ?? "–"],
      ["Kernel", node.kernel_release],
      ["sched_ext", node.sched_ext],
      ["Missing", node.missing.join("; ") || "–"],
    ]),
  );
  const points = cluster.history[node.node] ?? [];
  const most = Math.max(1, ...points.map(([, load]) => load));
  const line = (kind, value) => {
    const at = points.map((point, n) => `${POINTS - points.length + n},${(100 - value(point) * 98 - 1).toFixed(1)}`);
    const made = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    made.setAttribute("class", kind);
    made.setAttribute("points", at.join(" "));
    return made;
  };
  $("history").replaceChildren(line("load", ([, load]) => load / most), line("used", ([, , share]) => share));
  const last = points.at(-1);
  const said = last ? `Load, solid, up to ${most.toFixed(2)}, now ${last[1].toFixed(2)}; memory in use, dashed, now ${percent(last[2])}.` : "Nothing yet.";
  $("history-text").textContent = said;
  $("history").setAttribute("aria-label", said);
  $("drain").textContent = node.refuses_because ? "Take guests again" : "Send its guests away, take no others";
  $("drain").hidden = $("expel").hidden = !node.local;
  $("drain").disabled = $("expel").disabled = cluster.readOnly;
}

// ---- drawing

let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const nodes = [...cluster.nodes.values()];
    const programs = [...cluster.programs.values()];
    const alive = nodes.filter((node) => node.state === "alive").length;
    const away = programs.filter((program) => program.home !== program.runs_on).length;
    const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
    $("summary").textContent = `${alive} of ${plural(nodes.length, "machine")} alive, ${plural(programs.length, "program")}, ${away} away from home`;
    const broken = [...new Set(Object.values(cluster.broken))].join("; ");
    if ($("link").textContent !== broken) $("link").textContent = broken;
    drawPicture();
    Object.keys(TABLES).forEach(drawTable);
    if ($("program").open) drawProgram();
    if ($("node").open) drawNode();
  });
}

Object.keys(TABLES).forEach(makeHead);
$("signal").replaceChildren(...SIGNALS.map((name) => element("option", { value: name }, name)));
$("search").addEventListener("input", () => {
  search = $("search").value.toLowerCase();
  drawSoon();
});
const program = () => cluster.programs.get(shownProgram);
$("move").addEventListener("click", () => want({ do: "migrate", process: shownProgram, to: $("target").value }));
$("home").addEventListener("click", () => want({ do: "migrate", process: shownProgram, to: "home" }));
$("stay").addEventListener("click", () => want({ do: "stay", process: shownProgram, stay: !program()?.stay }));
$("cancel").addEventListener("click", () => want({ do: "cancel", process: shownProgram, migration: $("cancel").dataset.migration }));
$("send").addEventListener("click", () => {
  const signal = $("signal").value;
  const command = { do: "signal", process: shownProgram, start_time_ms: program()?.start_time_ms ?? null, signal };
  ask(`Send ${signal} to ${shownProgram}?`, command);
});
$("drain").addEventListener("click", () => {
  const on = !cluster.nodes.get(shownNode)?.refuses_because;
  const question = on ? `Send all guests of ${shownNode} away and take no others?` : `Let ${shownNode} take guests again?`;
  ask(question, { do: "drain", node: shownNode, on });
});
$("expel").addEventListener("click", () => ask(`Send all guests of ${shownNode} home?`, { do: "expel", node: shownNode }));
setInterval(() => {
  if ($("program").open) askWhy();
  drawSoon();
}, 2000);
follow();
