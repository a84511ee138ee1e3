"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// Theme: follows the system until the reader chooses one.
const theme = document.querySelector(".theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
systemDark.addEventListener("change", nameTheme);
nameTheme();
theme.hidden = false;

// Mark the section in view in the contents.
const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const section of all("main > section")) watcher.observe(section);

// Sort tables by the number in a cell, or else by its text.
const sortKey = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/,/g, "").replace("\u2212", "-"));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(sortKey(a, column), sortKey(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

// Gallery filters are kept in the URL, so that a filtered view can be shared.
const filters = document.querySelector(".filters");
const examples = all(".example");
const applyFilters = () => {
  const wanted = [...new FormData(filters)].filter(([, value]) => value);
  for (const one of examples) one.hidden = wanted.some(([name, value]) => one.dataset[name] !== value);
  const left = examples.filter((one) => !one.hidden).length;
  filters.querySelector("output").textContent = `${left} of ${examples.length} shown`;
  return wanted;
};
const readAddress = () => {
  const [place, query] = location.hash.split("?");
  if (place !== "#gallery" || query === undefined) return;
  const wanted = new URLSearchParams(query);
  for (const select of all("select", filters)) {
    const value = wanted.get(select.name) ?? "";
    select.value = [...select.options].some((option) => option.value === value) ? value : "";
  }
  applyFilters();
  document.getElementById("gallery").scrollIntoView();
};
if (filters) {
  filters.hidden = false;
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("change", () => {
    const wanted = applyFilters();
    history.replaceState(null, "", wanted.length ? `#gallery?${new URLSearchParams(wanted)}` : "#gallery");
  });
  addEventListener("hashchange", readAddress);
  applyFilters();
  readAddress();
}

// Lightbox: a modal dialog, which keeps the focus and closes on Escape; the arrow keys step through the images not filtered out.
const images = all(".strip img");
if (images.length) {
  const picture = make("img", { alt: "" });
  const caption = make("p", {});
  const walk = (step) => {
    const shown = images.filter((image) => !image.closest(".example").hidden);
    open(shown[(shown.indexOf(current) + step + shown.length) % shown.length]);
  };
  const button = (text, act) => {
    const made = make("button", { type: "button", textContent: text });
    made.addEventListener("click", act);
    return made;
  };
  const dialog = make("dialog", {}, picture, caption);
  dialog.setAttribute("aria-label", "Enlarged image");
  dialog.append(make("div", { className: "buttons" }, button("Previous", () => walk(-1)), button("Next", () => walk(1)), button("Close", () => dialog.close())));
  let current = null;
  const open = (image) => {
    current = image;
    picture.src = image.src;
    picture.alt = image.alt;
    caption.textContent = image.alt;
    if (!dialog.open) dialog.showModal();
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") walk(-1);
    else if (event.key === "ArrowRight") walk(1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => current?.closest("button")?.focus());
  document.body.append(dialog);
  for (const image of images) {
    const zoom = make("button", { type: "button", className: "zoom" });
    image.replaceWith(zoom);
    zoom.append(image);
    zoom.addEventListener("click", () => open(image));
  }
}

// Downloads are created from the JSON and the figures inside this page.
const save = (blob, name) => {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
const quote = (value) => {
  let text = value === null ? "" : Array.isArray(value) ? value.join(" ") : String(value);
  if (/^[=+@\t\r]|^-(?![\d.])/.test(text)) text = `'${text}`; // so that a spreadsheet does not run it as a formula
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
};
const toCsv = (samples) => {
  const columns = ["index", "label", "clean", "adversarial", "broken_by", "target", "distance", "fooled_by", "file"];
  return [columns, ...samples.map((sample) => columns.map((name) => sample[name] ?? null))].map((row) => row.map(quote).join(",")).join("\n") + "\n";
};
for (const button of all("[data-download]")) {
  button.closest(".downloads").hidden = false;
  button.addEventListener("click", () => {
    const number = button.dataset.evaluation;
    const text = document.getElementById(`evaluation-${number}`).textContent;
    if (button.dataset.download === "json") save(new Blob([text], { type: "application/json" }), `evaluation-${number}.json`);
    else save(new Blob([toCsv(JSON.parse(text).samples)], { type: "text/csv" }), `samples-${number}.csv`);
  });
}
const savePng = (svg, name) => {
  const style = getComputedStyle(svg);
  const [, , width, height] = svg.getAttribute("viewBox").split(/\s+/).map(Number);
  const copy = svg.cloneNode(true);
  copy.setAttribute("width", 2 * width);
  copy.setAttribute("height", 2 * height);
  const text = new XMLSerializer().serializeToString(copy)
    .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim()).replace(/currentColor/g, style.color);
  const image = new Image();
  image.onload = () => {
    const canvas = make("canvas", { width: 2 * width, height: 2 * height });
    const context = canvas.getContext("2d");
    context.fillStyle = style.getPropertyValue("--card");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(blob, name));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
};
for (const plot of all(".plot")) {
  const button = make("button", { type: "button", className: "png", textContent: "PNG" });
  button.setAttribute("aria-label", `Download as PNG: ${plot.querySelector("title").textContent}`);
  button.addEventListener("click", () => savePng(plot.querySelector("svg"), `${plot.id}.png`));
  plot.querySelector("figcaption").before(button);
}

// Open folded parts for printing.
addEventListener("beforeprint", () => { for (const one of all("details")) one.open = true; });
