// Draws the plots, the nearest to the screen first, in the colours of the style sheet, and minds legends and tables.
(function () {
  "use strict";
  const root = document.documentElement;
  const canvases = Array.from(document.querySelectorAll(".canvas"));
  const hidden = {}; // by legend: the keys of the lines that are hidden
  const drawn = new Set();
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const PAPER = 680; // a sheet of A4 between its margins, in CSS pixels
  let printing = false;

  // --- plots ---

  const TEXTS = new Set(["name", "text", "ticktext", "hovertemplate", "customdata", "x", "y"]);

  function coloured(part, style) {
    if (typeof part === "string") {
      const variable = /^var\((--plot-[a-z0-9]+)\)$/.exec(part);
      return variable ? style.getPropertyValue(variable[1]).trim() : part;
    }
    if (Array.isArray(part)) return part.map(function (one) { return coloured(one, style); });
    if (part === null || typeof part !== "object") return part;
    const whole = {};
    for (const name of Object.keys(part)) whole[name] = TEXTS.has(name) ? part[name] : coloured(part[name], style);
    return whole;
  }

  function draw(canvas) {
    drawn.add(canvas);
    const style = getComputedStyle(root);
    const figure = JSON.parse(document.getElementById(canvas.id + "-figure").textContent);
    const off = hidden[canvas.dataset.legend] || new Set();
    const data = coloured(figure.data, style);
    for (const trace of data) {
      if (trace.meta && "key" in trace.meta) trace.visible = !off.has(trace.meta.key);
    }
    const layout = coloured(figure.layout, style);
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.height = Number(canvas.dataset.height);
    layout.dragmode = coarse ? false : "zoom"; // a finger scrolls the page
    if (printing) layout.width = canvas.closest(".wide") ? PAPER : PAPER / 2 - 12;
    else layout.autosize = true;
    const config = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] }; // none that sends anything away
    return Plotly.react(canvas, data, layout, config);
  }

  // One by one while the browser is idle, so that a page of many plots answers; what is folded waits until it opens.
  const whenIdle = window.requestIdleCallback || window.setTimeout;
  function distance(canvas) {
    const box = canvas.getBoundingClientRect();
    return Math.max(box.top - innerHeight, -box.bottom);
  }
  function drawNext() {
    const waiting = canvases.filter(function (one) { return !drawn.has(one) && !one.closest("details:not([open])"); });
    if (waiting.length === 0) return;
    whenIdle(drawNext);
    draw(waiting.reduce(function (one, other) { return distance(other) < distance(one) ? other : one; }));
  }
  whenIdle(drawNext);
  document.addEventListener("toggle", function () { whenIdle(drawNext); }, true);

  function redraw() {
    for (const canvas of drawn) draw(canvas);
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // --- paper ---

  let opened = [];
  function toPaper() {
    if (printing) return;
    printing = true;
    root.classList.add("printing");
    opened = Array.from(document.querySelectorAll("details:not([open]):not(.code)"));
    for (const one of opened) one.open = true;
    for (const canvas of canvases) draw(canvas);
  }
  function fromPaper() {
    if (!printing) return;
    printing = false;
    root.classList.remove("printing");
    for (const one of opened) one.open = false;
    redraw();
  }
  window.addEventListener("beforeprint", toPaper);
  window.addEventListener("afterprint", fromPaper);
  window.matchMedia("print").addEventListener("change", function (change) {
    if (change.matches) toPaper(); else fromPaper();
  });

  // --- legends ---

  function chips(legend) {
    return Array.from(document.querySelectorAll(".chip[data-key]")).filter(function (chip) {
      return chip.dataset.legend === legend;
    });
  }
  function showKeys(legend, off) {
    hidden[legend] = off;
    for (const chip of chips(legend)) chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.key)));
    const all = document.querySelector('.chip.all[data-legend="' + legend + '"]');
    all.hidden = off.size === 0;
    for (const canvas of drawn) {
      if (canvas.dataset.legend !== legend) continue;
      Plotly.restyle(canvas, { visible: canvas.data.map(function (trace) { return !off.has(trace.meta.key); }) });
    }
  }
  document.addEventListener("click", function (event) {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    const legend = chip.dataset.legend;
    const off = new Set(hidden[legend] || []);
    if (!chip.dataset.key) off.clear();
    else if (!off.delete(chip.dataset.key)) off.add(chip.dataset.key);
    showKeys(legend, off);
  });
  document.addEventListener("dblclick", function (event) {
    const chip = event.target.closest(".chip[data-key]");
    if (!chip) return;
    const off = new Set(chips(chip.dataset.legend).map(function (one) { return one.dataset.key; }));
    off.delete(chip.dataset.key);
    showKeys(chip.dataset.legend, off);
  });

  // --- tables ---

  function orderOf(row, column) {
    const cell = row.cells[column];
    if (!cell || cell.colSpan > 1) return null;
    if (!("order" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.order === "" ? null : Number(cell.dataset.order);
  }
  document.addEventListener("click", function (event) {
    const head = event.target.closest("table.sortable thead th");
    if (!head) return;
    const body = head.closest("table").tBodies[0];
    const rows = Array.from(body.rows);
    const numbers = rows.some(function (row) { return typeof orderOf(row, head.cellIndex) === "number"; });
    const before = head.getAttribute("aria-sort");
    const falling = before ? before === "ascending" : numbers; // numbers begin with the greatest
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    rows.sort(function (one, other) {
      const [a, b] = [orderOf(one, head.cellIndex), orderOf(other, head.cellIndex)];
      if (a === null || b === null) return (a === null) - (b === null); // what is missing stays last
      const rising = numbers ? a - b : String(a).localeCompare(String(b));
      return falling ? -rising : rising;
    });
    body.append(...rows);
  });

  // --- links into what is folded ---

  function unfold() {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  window.addEventListener("hashchange", unfold);
  unfold();
})();
