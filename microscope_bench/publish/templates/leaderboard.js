"use strict";
(function () {
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const rows = Array.from(document.querySelectorAll("table.geometry tbody tr"));
  const sections = Array.from(document.querySelectorAll("main > section"));

  function show() {
    const wanted = Array.from(form.querySelectorAll("select")).map((select) => [select.name, select.value]);
    const part = form.elements.namedItem("model").value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = wanted.every(([name, value]) => value === "" || row.dataset[name] === value)
        && row.cells[0].firstElementChild.textContent.toLowerCase().includes(part);
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    for (const section of sections) {
      section.hidden = !section.querySelector("table.geometry tbody tr:not([hidden])");
    }
    count.textContent = shown + " of " + rows.length + " rows";
  }

  function key(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined && cell.dataset.value !== "") return Number(cell.dataset.value);
    return cell.classList.contains("number") ? null : cell.textContent.trim().toLowerCase();
  }

  function sort(table, column, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows).map((row, index) => [key(row, column), index, row]);
    keyed.sort(function (a, b) {
      if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null) || a[1] - b[1];
      const order = a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0;
      return (up ? order : -order) || a[1] - b[1];
    });
    for (const entry of keyed) body.appendChild(entry[2]);
  }

  for (const table of document.querySelectorAll("table.geometry")) {
    Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = "sort by " + head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, column, head));
    });
  }
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  show();
})();
