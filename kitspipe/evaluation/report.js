// The cohort page: sorts and filters the rows that are there.
"use strict";

(() => {
  const table = document.querySelector(".cases");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.querySelectorAll("th[data-column]")];
  const sortBy = document.querySelector("#sort-by");
  const search = document.querySelector("#search");
  const look = document.querySelector("#look");
  const kind = document.querySelector("#kind");
  const shown = document.querySelector("#shown");

  // A cell's value: a number where it has one; what is missing goes last, whichever the direction.
  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    if (text === undefined || text === "") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sort = (column, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    const keyed = rows.map((row) => [value(row, column), Number(row.dataset.rank), row]);
    keyed.sort(([a, rankA], [b, rankB]) => {
      if (a === null || b === null) return (a === null) - (b === null) || rankA - rankB;
      return sign * compare(a, b) || rankA - rankB;
    });
    body.append(...keyed.map(([, , row]) => row));
    for (const header of headers) {
      if (Number(header.dataset.column) === column) header.setAttribute("aria-sort", direction);
      else header.removeAttribute("aria-sort");
    }
    sortBy.value = `${column} ${direction}`;
    if (sortBy.value === "") sortBy.selectedIndex = -1;
  };

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.dataset.text;
      const kinds = row.dataset.kinds.split(" ");
      const fits =
        words.every((word) => text.includes(word)) &&
        (look.value === "" || look.value.split(" ").includes(row.dataset.look)) &&
        (kind.value === "" || kinds.includes(kind.value));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} cases`;
  };

  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const now = header.getAttribute("aria-sort");
      const first = header.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      sort(Number(header.dataset.column), now === first ? other : first);
    });
  }
  sortBy.addEventListener("change", () => {
    const [column, direction] = sortBy.value.split(" ");
    sort(Number(column), direction);
  });
  search.addEventListener("input", filter);
  for (const choice of [look, kind]) choice.addEventListener("change", filter);
  document.querySelector("#clear").addEventListener("click", () => {
    search.value = look.value = kind.value = "";
    filter();
  });
  // Browsers keep what was typed when one comes back from a case.
  filter();
})();
