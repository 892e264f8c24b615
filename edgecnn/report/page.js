"use strict";
// Tables: sort by a column's header, filter by text and by kind. Without scripts a page shows everything, in its first order.
document.querySelectorAll("main table").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => row.cells[column].dataset.v;
  const texts = heads.map((_, column) => column).filter((column) => !heads[column].classList.contains("number"));

  const sort = (column) => {
    const head = heads[column];
    const numeric = head.classList.contains("number");
    const up = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : true;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what there is not comes last, either way
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return up ? order : -order;
    });
    body.append(...rows);
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column)));

  const mine = `[data-for="${table.id}"]`;
  const search = document.querySelector(`input[type="search"]${mine}`);
  const kind = document.querySelector(`input[type="checkbox"]${mine}`);
  if (!search) return;
  const filter = () => {
    const words = search.value.toLowerCase();
    rows.forEach((row) => {
      const found = texts.some((column) => value(row, column).toLowerCase().includes(words));
      row.hidden = !found || (kind !== null && kind.checked && row.dataset.kind !== kind.value);
    });
  };
  search.addEventListener("input", filter);
  if (kind) kind.addEventListener("change", filter);
});
