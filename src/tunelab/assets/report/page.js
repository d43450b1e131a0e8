"use strict";

// Light/dark switch; starts with the system setting.
const theme = document.getElementById("theme");
let dark = matchMedia("(prefers-color-scheme: dark)").matches;
function nameTheSwitch() {
  theme.textContent = dark ? "Light" : "Dark";
  theme.setAttribute("aria-label", "Switch to " + (dark ? "light" : "dark") + " colors");
}
theme.addEventListener("click", () => {
  dark = !dark;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  nameTheSwitch();
});
nameTheSwitch();
theme.hidden = false;

// Flips: every search word must occur in the flip, and each filter must match.
const controls = document.getElementById("flip-controls");
if (controls) {
  const search = document.getElementById("flip-search");
  const choices = ["kind", "benchmark", "pair"].map((name) => [name, document.getElementById("flip-" + name)]);
  const count = document.getElementById("flip-count");
  const flips = [...document.querySelectorAll(".flip")].map((node) => [node, node.textContent.toLowerCase()]);
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [node, text] of flips) {
      const chosen = choices.every(([name, choice]) => !choice.value || choice.value === "=" + node.dataset[name]);
      node.hidden = !(chosen && words.every((word) => text.includes(word)));
      shown += node.hidden ? 0 : 1;
    }
    count.textContent = shown + " of " + flips.length + " shown";
  };
  search.addEventListener("input", show);
  for (const [, choice] of choices) choice.addEventListener("change", show);
  controls.hidden = false;
  show();
}
