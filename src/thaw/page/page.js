// Tables sort by the header that is pressed; Escape closes an open cell of a matrix.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent.trim();
  heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending" && head.dataset.first === "down"
      || head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows], sign = down ? -1 : 1;
    const empty = (text) => text === "" || text === "–" || text === "nan";
    rows.sort((a, b) => {
      const [x, y] = [value(a, i), value(b, i)];
      if (empty(x) || empty(y)) return empty(x) - empty(y);
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    });
    body.append(...rows);
  }));
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.querySelector(".panel:target")) return;
  const from = location.hash;
  location.hash = "confusion";
  document.querySelector(`a[href="${from}"]`)?.focus();
});
