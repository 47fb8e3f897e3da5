"use strict";
// A column's values stand in its cells (data-value), or in the page's JSON: at the table's place,
// the row's key and the column's. What isn't known comes last.
(() => {
  const json = document.getElementById("result");
  const result = json === null ? null : JSON.parse(json.textContent);
  const at = (value, keys) => keys.reduce((found, key) => found?.[key] ?? null, value);

  function valueOf(table, row, column) {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return JSON.parse(cell.dataset.value);
    const key = table.tHead.rows[0].cells[column].dataset.key;
    if (key === undefined) return cell.textContent;
    const keys = key.split("."), own = JSON.parse(row.dataset.key);
    const place = JSON.parse(table.dataset.at);
    const found = at(result, "flipped" in table.dataset ? [...place, ...keys, own] : [...place, own, ...keys]);
    return Array.isArray(found) ? found[0] : found;
  }

  function compared(one, other) {
    if (typeof one === "string" && typeof other === "string")
      return one.localeCompare(other, undefined, { numeric: true });
    return Number(one) - Number(other);
  }

  function sort(table, column, heading) {
    const falls = heading.ariaSort !== "descending";
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(table, row, column), row]);
    rows.sort(([one], [other]) =>
      one === null || other === null ? (one === null) - (other === null)
        : falls ? compared(other, one) : compared(one, other));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    heading.ariaSort = falls ? "descending" : "ascending";
  }

  for (const table of document.querySelectorAll("table.sortable, table[data-figure]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, column, heading));
      heading.append(button);
    });
  }

  // What is folded is on paper too.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const each of folded) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
  });
})();
