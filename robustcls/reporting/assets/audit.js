
// Decisions about findings are made with radio buttons, or with keys while a finding has the focus, and downloaded as a file.
const findings = all(".finding");
const bar = document.querySelector(".steer");
let unsaved = false;
const classOf = (one) => one.querySelector("select").value; // "" if there is no guess and no class is chosen yet
const decisionOf = (one) => {
  const value = one.querySelector("input:checked")?.value || "";
  return value === "relabel" && !classOf(one) ? "" : value;
};
const show = (one) => {
  one.classList.toggle("decided", decisionOf(one) !== "");
  const done = findings.filter((other) => decisionOf(other)).length;
  bar.querySelector("output").textContent = `${done} of ${findings.length} decided`;
};
const decide = (one, value) => {
  for (const input of all("input", one)) input.checked = input.value === value;
  unsaved = true;
  show(one);
};
const go = (place) => {
  const one = findings[Math.min(Math.max(place, 0), findings.length - 1)];
  one?.focus();
  one?.scrollIntoView({ block: "nearest" });
};
const keys = { k: "keep", a: "relabel", r: "remove", u: "" };
findings.forEach((one, place) => {
  one.querySelector(".choice").hidden = false;
  one.addEventListener("change", (event) => {
    if (event.target.matches("select")) decide(one, "relabel");
    unsaved = true;
    show(one);
  });
  one.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const key = event.key.toLowerCase();
    if (key === "n" || key === "p") go(place + (key === "n" ? 1 : -1));
    else if (key in keys) {
      const { guess, label } = one.dataset;
      const accepts = key === "a" && guess !== "" && guess !== label;
      if (accepts) one.querySelector("select").value = guess;
      decide(one, key === "a" && !accepts ? "keep" : keys[key]);
      if (key !== "u") go(place + 1);
    } else return;
    event.preventDefault();
  });
});
if (findings.length) {
  bar.hidden = false;
  show(findings[0]);
  bar.querySelector(".begin").addEventListener("click", () => go(Math.max(0, findings.findIndex((one) => !decisionOf(one)))));
}
// The format of the command's tables: names that a spreadsheet would run as formulas are prefixed with ', digests with x.
const guard = (text) => (/^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
bar.querySelector(".save").addEventListener("click", () => {
  const lines = findings.map((one) => {
    const { image, label, guess, reason, score, digest } = one.dataset;
    const decision = decisionOf(one);
    const made = decision === "relabel" ? classOf(one) : "";
    return [guard(image), guard(label), guard(guess), reason, score, `x${digest}`, decision, guard(made)].map(cell).join(",");
  });
  const head = "image,label,guess,reason,score,digest,decision,new_label";
  const link = make("a", { href: URL.createObjectURL(new Blob([[head, ...lines, ""].join("\r\n")], { type: "text/csv" })), download: "labels.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  unsaved = false;
});
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
