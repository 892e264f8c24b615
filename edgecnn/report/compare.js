// The picture: one panel at a time, families on and off with the front drawn anew, and what is known of the bubble under the pointer.
(() => {
  const panels = [...document.querySelectorAll(".panel")];
  const switches = document.querySelector(".switches");
  const log = document.getElementById("log");
  const tip = document.getElementById("tip");
  const table = document.getElementById("points");
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.key, row]));
  const off = new Set();
  if (!switches) return; // nothing was drawn
  switches.hidden = false;

  const show = () => {
    const picked = document.querySelector('input[name="axis"]:checked');
    const axis = picked ? picked.value : panels[0].dataset.axis;
    const scale = log.checked ? "log" : "linear";
    panels.forEach((panel) => { panel.hidden = panel.dataset.axis !== axis || panel.dataset.scale !== scale; });
  };
  document.querySelectorAll('input[name="axis"]').forEach((one) => one.addEventListener("change", show));
  log.addEventListener("change", show);

  // None at least as accurate and cheaper: by rising cost, every one that is better than all before it.
  const number = (disc, column) => Number(rows.get(disc.dataset.key).cells[heads.indexOf(column)].dataset.v);
  const front = (panel) => {
    const cost = panel.dataset.axis === "macs" ? "GMACs" : "ms";
    const discs = [...panel.querySelectorAll(".disc[data-key]:not(.off):not(.hollow)")];
    discs.sort((a, b) => number(a, cost) - number(b, cost) || number(b, "Top-1 %") - number(a, "Top-1 %"));
    let best = -Infinity;
    const kept = discs.filter((disc) => number(disc, "Top-1 %") > best && ((best = number(disc, "Top-1 %")), true));
    const names = new Set(kept.map((disc) => disc.dataset.key));
    const points = kept.map((disc) => `${disc.getAttribute("cx")},${disc.getAttribute("cy")}`).join(" ");
    panel.querySelector(".line.front").setAttribute("points", points);
    panel.querySelectorAll("text[data-key]").forEach((text) => {
      text.setAttribute("font-weight", names.has(text.dataset.key) ? "600" : "400");
    });
  };
  document.querySelectorAll(".chip").forEach((chip) => chip.addEventListener("click", () => {
    const pressed = chip.getAttribute("aria-pressed") !== "true";
    chip.setAttribute("aria-pressed", String(pressed));
    off[pressed ? "delete" : "add"](chip.dataset.family);
    panels.forEach((panel) => {
      panel.querySelectorAll("[data-key]").forEach((shape) => {
        if (!shape.classList.contains("front")) shape.classList.toggle("off", [...off].some((name) => shape.classList.contains(name)));
      });
      front(panel);
    });
    rows.forEach((row) => row.classList.toggle("off", [...off].some((name) => row.querySelector(".swatch").classList.contains(name))));
  }));

  const light = (key, on) => {
    document.querySelectorAll(".disc[data-key]").forEach((disc) => { if (disc.dataset.key === key) disc.classList.toggle("lit", on); });
    rows.get(key).classList.toggle("lit", on);
  };
  const tell = (key) => {
    tip.replaceChildren();
    const title = document.createElement("b");
    title.textContent = key;
    tip.append(title);
    [...rows.get(key).cells].forEach((cell, column) => {
      const text = cell.firstChild ? cell.firstChild.textContent : "";
      if (column === 0 || text === "") return;
      const line = document.createElement("span");
      line.textContent = `${heads[column]}: ${text}`;
      tip.append(line);
    });
  };
  document.querySelectorAll(".disc[data-key]").forEach((disc) => {
    const key = disc.dataset.key;
    disc.querySelector("title")?.remove(); // the tip says more
    disc.addEventListener("pointerenter", () => { tell(key); light(key, true); tip.hidden = false; });
    disc.addEventListener("pointermove", (event) => {
      const left = Math.min(event.clientX + 16, document.documentElement.clientWidth - tip.offsetWidth - 8);
      const below = event.clientY + 18 + tip.offsetHeight < window.innerHeight;
      tip.style.left = `${Math.max(left, 8)}px`;
      tip.style.top = `${below ? event.clientY + 18 : event.clientY - tip.offsetHeight - 12}px`;
    });
    disc.addEventListener("pointerleave", () => { light(key, false); tip.hidden = true; });
    disc.addEventListener("click", () => rows.get(key).scrollIntoView({ block: "center" }));
  });
  rows.forEach((row, key) => {
    row.addEventListener("pointerenter", () => light(key, true));
    row.addEventListener("pointerleave", () => light(key, false));
  });
})();
