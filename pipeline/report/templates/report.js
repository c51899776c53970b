"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const place = new Map(data.columns.map((column, i) => [column.name, i]));
  const few = 24;
  const state = { view: "cards", descending: false, all: false, shown: [], open: 0 };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const words = (value) => {
    if (value === null) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return value;
    if (Number.isInteger(value)) return String(value);
    return String(Number(value.toPrecision(4)));
  };

  /* Numbers by size, text by alphabet, what is unknown last in either direction. */
  const order = (a, b, descending) => {
    const unknown = (value) => value === null || value === "";
    if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
    const found = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return descending ? -found : found;
  };

  const picked = () => {
    const group = $("group").value;
    const search = $("search").value.trim().toLowerCase();
    const filters = [...document.querySelectorAll("[data-filter]")]
      .filter((select) => select.value)
      .map((select) => [data.filters[select.dataset.filter], select.value])
      .map(([filter, choice]) => [place.get(filter.name), filter.choices[choice]]);
    const rows = data.rows.filter(
      (row) =>
        (!group || row.groups.includes(group)) &&
        filters.every(([column, choice]) => row.values[column] === choice) &&
        (!search || row.values.some((value) => words(value).toLowerCase().includes(search))),
    );
    const by = place.get($("sort").value);
    return by === undefined ? rows : rows.sort((a, b) => order(a.values[by], b.values[by], state.descending));
  };

  const image = (picture, alt) =>
    picture
      ? make("img", { src: picture.file, width: picture.width, height: picture.height, alt, loading: "lazy" })
      : make("span", { class: "nothing" }, "no picture");

  const card = (row) => {
    const title = make("button", { type: "button", "data-open": row.key }, make("bdi", {}, row.title));
    const by = place.get($("sort").value);
    const figures = by === undefined ? row.figures : [[data.columns[by].title, words(row.values[by])]];
    const caption = make("div", { class: "caption" }, make("h3", {}, title));
    if (row.line) caption.append(make("p", {}, make("bdi", {}, row.line)));
    for (const [name, value] of figures) caption.append(make("p", { class: "figure" }, `${name} `, make("b", {}, value)));
    const pair = make("div", { class: "pair" }, image(row.before, `Source image ${row.title}`), image(row.after, row.alt));
    return make("li", { class: "card" }, pair, caption);
  };

  const table = (rows) => {
    const head = make("tr");
    for (const column of data.columns) {
      const cell = make("th", { scope: "col", class: column.text ? "" : "number" });
      const current = $("sort").value === column.name;
      cell.setAttribute("aria-sort", current ? (state.descending ? "descending" : "ascending") : "none");
      cell.append(make("button", { type: "button", "data-sort": column.name }, column.title));
      head.append(cell);
    }
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr");
      data.columns.forEach((column, i) => {
        const text = make("bdi", {}, words(row.values[i]));
        if (i === 0) line.append(make("th", { scope: "row" }, make("button", { type: "button", "data-open": row.key }, text)));
        else line.append(make("td", { class: column.text ? "" : "number" }, text));
      });
      body.append(line);
    }
    return make("table", {}, make("caption", { class: "unseen" }, "The outputs of the gallery with all their columns"), make("thead", {}, head), body);
  };

  const draw = () => {
    state.shown = picked();
    const asTable = state.view === "table";
    $("cards").replaceChildren(...(asTable ? [] : state.shown.slice(0, state.all ? undefined : few).map(card)));
    $("rows").replaceChildren(...(asTable ? [table(state.shown)] : []));
    $("cards").hidden = asTable;
    $("rows").hidden = !asTable;
    $("rest").hidden = asTable || state.all || state.shown.length <= few;
    $("more").textContent = `Show the other ${state.shown.length - few}`;
    const count = state.shown.length;
    $("shown").textContent = count ? `${count} ${count === 1 ? "output" : "outputs"} shown` : "No output matches.";
    $("direction").textContent = state.descending ? "↓" : "↑";
    $("direction").setAttribute("aria-label", `Order: ${state.descending ? "descending" : "ascending"}`);
    $("direction").disabled = !$("sort").value;
  };

  const sortBy = (name) => {
    state.descending = $("sort").value === name && !state.descending;
    $("sort").value = name;
    draw();
    document.querySelector(`[data-sort="${CSS.escape(name)}"]`)?.focus();
  };

  /* The viewer */
  const cut = () => $("compare").style.setProperty("--cut", `${$("cut").value}%`);

  const show = (row) => {
    $("viewer-title").replaceChildren(make("bdi", {}, row.title));
    const both = Boolean(row.before && row.after);
    for (const [id, picture, alt] of [["before", row.before, `Source image ${row.title}`], ["after", row.after, row.alt]]) {
      $(id).hidden = !picture;
      if (picture) Object.assign($(id), { src: picture.file, width: picture.width, height: picture.height, alt });
    }
    const any = row.after ?? row.before;
    $("compare").hidden = !any;
    if (any) $("compare").style.setProperty("--ratio", any.width / any.height);
    $("compare").classList.toggle("both", both);
    $("slide").hidden = !both;
    $("cut").value = 50;
    cut();
    if ($("low")) {
      $("low").textContent = row.scale === null ? "" : `−${words(row.scale)} against`;
      $("high").textContent = row.scale === null ? "" : `for +${words(row.scale)}`;
    }
    const facts = data.columns.map((column, i) => [column.title, row.values[i]]).filter(([, value]) => value !== null);
    $("facts").replaceChildren(
      ...[...facts, ["key", row.key]].map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", {}, words(value))))),
    );
  };

  const open = (key) => {
    state.open = state.shown.findIndex((row) => row.key === key);
    show(data.rows.find((row) => row.key === key));
    $("previous").disabled = $("next").disabled = state.open < 0 || state.shown.length < 2;
    $("viewer").showModal();
  };

  const step = (by) => {
    if (state.open < 0) return;
    state.open = (state.open + by + state.shown.length) % state.shown.length;
    show(state.shown[state.open]);
  };

  /* Tables that are in the page already */
  const makeSortable = (found) => {
    const heads = [...found.tHead.rows[0].cells];
    heads.forEach((head, i) => {
      head.setAttribute("aria-sort", "none");
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "none" ? head.classList.contains("number") : head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const value = (row) => {
          const given = row.cells[i].dataset.value;
          return given === undefined ? row.cells[i].textContent.trim() : given === "" ? null : Number(given);
        };
        const rows = [...found.tBodies[0].rows].sort((a, b) => order(value(a), value(b), descending));
        found.tBodies[0].append(...rows);
      });
    });
  };

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    const sorter = event.target.closest("[data-sort]");
    if (opener) open(opener.dataset.open);
    else if (sorter) sortBy(sorter.dataset.sort);
    else if (event.target === $("viewer")) $("viewer").close();
  });
  $("controls").addEventListener("input", draw);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("direction").addEventListener("click", () => {
    state.descending = !state.descending;
    draw();
  });
  $("view").addEventListener("click", () => {
    state.view = state.view === "cards" ? "table" : "cards";
    $("view").setAttribute("aria-pressed", String(state.view === "table"));
    draw();
  });
  $("more").addEventListener("click", () => {
    state.all = true;
    draw();
    $("cards").children[few].querySelector("button").focus();
  });
  $("cut").addEventListener("input", cut);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("keydown", (event) => {
    if (event.target === $("cut")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("controls").hidden = data.rows.length === 0;
  draw();
})();
