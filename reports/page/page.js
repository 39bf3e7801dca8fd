"use strict";
(() => {
  const KEY = "report-theme";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Storage may be unavailable, for example in MLflow's artifact viewer.
  function recall() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Without storage, the choice is lost on reload.
    }
  }

  const setTheme = (theme) => (root.dataset.theme = ["light", "dark"].includes(theme) ? theme : "auto");

  function startTheme(button) {
    const say = () => (button.textContent = `Theme: ${root.dataset.theme}`);
    button.addEventListener("click", () => {
      // From "auto", the first click switches to the theme that is not shown.
      const others = matchMedia("(prefers-color-scheme: dark)").matches ? ["light", "dark"] : ["dark", "light"];
      const order = ["auto", ...others];
      setTheme(order[(order.indexOf(root.dataset.theme) + 1) % order.length]);
      remember(root.dataset.theme);
      say();
    });
    // Reports open in other tabs change their theme, too.
    addEventListener("storage", () => {
      setTheme(recall());
      say();
    });
    button.hidden = false;
    say();
  }

  const collator = new Intl.Collator("en", { numeric: true });

  function keyOf(cell) {
    return "n" in cell.dataset ? Number(cell.dataset.n) : cell.dataset.t;
  }

  function compare(a, b) {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "string" ? collator.compare(a, b) : (a > b) - (a < b);
  }

  function sorted(rows, index, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const keyed = rows.map((row) => ({ row, key: keyOf(row.cells[index]) }));
    const known = keyed.filter(({ key }) => key !== undefined);
    const unknown = keyed.filter(({ key }) => key === undefined);
    known.sort((a, b) => sign * compare(a.key, b.key));
    return [...known, ...unknown].map(({ row }) => row);
  }

  function startSorting(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const next = { ascending: "descending", descending: "" };
    const heads = all("th[data-sort]", table);
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const direction = now ? next[now] : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (direction) head.setAttribute("aria-sort", direction);
        table.classList.toggle("sorted", direction !== "");
        body.replaceChildren(...(direction ? sorted(original, head.cellIndex, direction) : original));
      });
    }
  }

  function startFilter(tools) {
    const tables = all("table", tools.parentElement);
    const search = tools.querySelector("input");
    const selects = all("select", tools);
    const status = tools.querySelector(".status");
    const clear = tools.querySelector(".clear");
    const words = new Map();
    const rowsOf = (table) => [...table.tBodies[0].rows];
    const total = tables.reduce((sum, table) => sum + rowsOf(table).length, 0);

    function wordsOf(row) {
      if (!words.has(row)) words.set(row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
      return words.get(row);
    }

    function fits(row, terms, picks) {
      const text = wordsOf(row);
      return (
        picks.every(([index, value]) => index !== undefined && row.cells[index].textContent === value) &&
        terms.every((term) => text.includes(term))
      );
    }

    function apply() {
      const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = selects.filter((select) => select.value);
      const counts = tables.map((table) => {
        const place = (select) => table.querySelector(`th[data-pick="${select.dataset.pick}"]`)?.cellIndex;
        const picks = chosen.map((select) => [place(select), select.value]);
        const rows = rowsOf(table);
        rows.forEach((row) => (row.hidden = !fits(row, terms, picks)));
        return rows.filter((row) => !row.hidden).length;
      });
      const visible = counts.reduce((sum, count) => sum + count, 0);
      tables.forEach((table, part) => (table.parentElement.hidden = visible > 0 && counts[part] === 0));
      const filtered = terms.length + chosen.length > 0;
      const noun = total === 1 ? "row" : "rows";
      status.textContent = filtered ? `${visible} of ${total} ${noun}` : `${total} ${noun}`;
      status.classList.toggle("filtered", filtered);
      clear.hidden = !filtered;
    }

    clear.addEventListener("click", () => {
      search.value = "";
      selects.forEach((select) => (select.value = ""));
      apply();
      search.focus();
    });
    search.addEventListener("input", apply);
    selects.forEach((select) => select.addEventListener("change", apply));
    tools.hidden = false;
    apply();
  }

  function startGains(select, readout) {
    const pictures = all("svg.gains");
    const usual = readout.textContent;
    const show = (text) => (readout.textContent = text || usual);
    const focused = () => document.activeElement?.closest(".mark")?.getAttribute("aria-label");
    for (const mark of all(".mark")) {
      const said = mark.getAttribute("aria-label");
      // A tooltip of the browser would cover the row that it is about.
      mark.querySelector("title").remove();
      mark.addEventListener("pointerenter", () => show(said));
      mark.addEventListener("pointerleave", () => show(focused()));
      mark.addEventListener("focus", () => show(said));
      mark.addEventListener("blur", () => show());
    }
    if (!select) return;
    select.addEventListener("change", () =>
      pictures.forEach((picture) => picture.toggleAttribute("hidden", picture.dataset.metric !== select.value)),
    );
    select.closest(".switch").hidden = false;
  }

  // A link may point into a folded section, or to a claim whose numbers are folded.
  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.matches("details")) part.open = true;
    if (target.matches(".claim")) target.querySelector("details").open = true;
    target.scrollIntoView();
  }

  function startZoom(dialog) {
    const view = dialog.querySelector(".view");
    const image = new Image();
    image.draggable = false;
    let base = { width: 1, height: 1 };
    let scale = 1;

    function resize(next) {
      const x = (view.scrollLeft + view.clientWidth / 2) / (base.width * scale);
      const y = (view.scrollTop + view.clientHeight / 2) / (base.height * scale);
      scale = Math.min(20, Math.max(0.1, next));
      image.width = base.width * scale;
      image.height = base.height * scale;
      view.scrollTo(x * image.width - view.clientWidth / 2, y * image.height - view.clientHeight / 2);
    }

    const acts = {
      in: () => resize(scale * 1.25),
      out: () => resize(scale / 1.25),
      fit: () => resize(Math.min((view.clientWidth - 2) / base.width, (view.clientHeight - 2) / base.height)),
      close: () => dialog.close(),
    };
    const keys = { "+": acts.in, "=": acts.in, "-": acts.out, 0: acts.fit };

    function open(figure, picture) {
      dialog.querySelector("h2").textContent = figure.querySelector("h3").textContent;
      base = { width: picture.clientWidth, height: picture.clientHeight };
      image.src = picture.src;
      image.alt = picture.alt;
      view.replaceChildren(image);
      dialog.showModal();
      view.focus();
      acts.fit();
    }

    all("[data-do]", dialog).forEach((button) => button.addEventListener("click", acts[button.dataset.do]));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => !event.ctrlKey && !event.metaKey && keys[event.key]?.());
    view.addEventListener("pointermove", (event) => {
      // The browser already scrolls on touch.
      if (event.pointerType === "mouse" && event.buttons === 1) view.scrollBy(-event.movementX, -event.movementY);
    });
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      resize(scale * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
    }, { passive: false });
    for (const figure of all("figure")) {
      const picture = figure.querySelector("img");
      const button = figure.querySelector(".zoom");
      if (!picture || !button) continue;
      button.hidden = false;
      [button, picture].forEach((part) => part.addEventListener("click", () => open(figure, picture)));
    }
  }

  setTheme(recall());
  document.addEventListener("DOMContentLoaded", () => {
    startTheme(document.getElementById("theme"));
    all("table").forEach(startSorting);
    all(".tools").forEach(startFilter);
    const readout = document.getElementById("readout");
    if (readout) startGains(document.getElementById("metric"), readout);
    addEventListener("hashchange", unfold);
    unfold();
    startZoom(document.getElementById("zoom"));
    root.classList.add("live");
  });
})();
