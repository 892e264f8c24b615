"use strict";
// The table: sort by a column's header, filter by text and by kind. Without scripts the page shows everything, worst first.
(() => {
  const table = document.getElementById("layers");
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => row.cells[column].dataset.v;

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

  const text = document.getElementById("filter");
  const quantized = document.getElementById("quantized");
  const filter = () => {
    const words = text.value.toLowerCase();
    rows.forEach((row) => {
      const found = (value(row, 1) + " " + value(row, 2)).toLowerCase().includes(words);
      row.hidden = !found || (quantized.checked && row.dataset.kind !== "int8");
    });
  };
  text.addEventListener("input", filter);
  quantized.addEventListener("change", filter);
})();
