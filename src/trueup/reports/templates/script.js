"use strict";
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.querySelector(".toggle");
const shown = () => root.dataset.theme || (dark.matches ? "dark" : "light");
const name = () => { toggle.textContent = shown() === "dark" ? "Light" : "Dark"; };
toggle.hidden = false;
toggle.addEventListener("click", () => { root.dataset.theme = shown() === "dark" ? "light" : "dark"; name(); });
dark.addEventListener("change", name);
name();

const SVG = "http://www.w3.org/2000/svg";
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const { x: word, p: places } = JSON.parse(svg.dataset.hover);
  const layer = svg.querySelector(".hover");
  const rule = layer.querySelector(".rule");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  svg.parentNode.append(tip);
  let at = -1;
  const hide = () => { layer.setAttribute("hidden", ""); tip.hidden = true; at = -1; };
  const show = (index) => {
    if (index === at || index < 0 || index >= places.length) return;
    at = index;
    const [px, step, values] = places[index];
    layer.removeAttribute("hidden");
    rule.setAttribute("x1", px);
    rule.setAttribute("x2", px);
    for (const old of layer.querySelectorAll("circle")) old.remove();
    tip.textContent = `${word} ${step}`;
    for (const [py, value, tone, label] of values) {
      const line = document.createElement("div");
      line.textContent = label ? `${label}: ${value}` : value;
      tip.append(line);
      if (py === null) continue;
      const dot = document.createElementNS(SVG, "circle");
      for (const [key, it] of [["class", tone], ["cx", px], ["cy", py], ["r", 4]]) dot.setAttribute(key, it);
      layer.append(dot);
    }
    tip.hidden = false;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const left = px * scale;
    const room = svg.clientWidth - left - 14 > tip.offsetWidth;
    tip.style.left = `${Math.max(0, room ? left + 10 : left - tip.offsetWidth - 10)}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const px = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let best = 0;
    places.forEach(([p], i) => { if (Math.abs(p - px) < Math.abs(places[best][0] - px)) best = i; });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("focus", () => { if (at < 0) show(places.length - 1); });
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way) { event.preventDefault(); show(at + way); }
  });
}
addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
