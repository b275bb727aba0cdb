
"use strict";
// Shows the value of the mark that is nearest to the pointer or has the focus. Without this script the marks have the
// browser's own tooltips, and the tables every value.
for (const svg of document.querySelectorAll("svg.panel")) {
  const marks = [...svg.querySelectorAll("use:not(.ring)")];
  const readout = svg.parentNode.querySelector(".readout");
  const width = svg.viewBox.baseVal.width;
  const hint = "Point at a mark, or use the arrow keys.";
  const says = (mark) => `${mark.parentNode.getAttribute("aria-label")}: ${mark.textContent}`;
  let current = marks[0];
  readout.textContent = hint;
  const show = (mark) => {
    current.classList.remove("on");
    current.setAttribute("tabindex", "-1");
    current = mark;
    current.classList.add("on");
    current.setAttribute("tabindex", "0");
    readout.textContent = says(current);
  };
  for (const mark of marks) {
    mark.setAttribute("tabindex", mark === current ? "0" : "-1");
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", says(mark));
    mark.addEventListener("focus", () => show(mark));
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * width / box.width, y = (event.clientY - box.top) * width / box.width;
    const far = (mark) => Math.hypot(mark.x.baseVal.value - x, mark.y.baseVal.value - y);
    const nearest = marks.reduce((best, mark) => far(mark) < far(best) ? mark : best);
    if (far(nearest) < 16 && nearest !== current) show(nearest);
    else if (far(nearest) < 16) readout.textContent = says(current);
  });
  svg.addEventListener("keydown", (event) => {
    const own = [...current.parentNode.querySelectorAll("use:not(.ring)")];
    const curves = [...svg.querySelectorAll("g.curve")];
    const place = own.indexOf(current), curve = curves.indexOf(current.parentNode);
    const across = (step) => {
      const there = curves[(curve + step + curves.length) % curves.length].querySelectorAll("use:not(.ring)");
      return there[Math.min(place, there.length - 1)];
    };
    const targets = {
      ArrowRight: () => own[Math.min(place + 1, own.length - 1)],
      ArrowLeft: () => own[Math.max(place - 1, 0)],
      Home: () => own[0],
      End: () => own[own.length - 1],
      ArrowDown: () => across(1),
      ArrowUp: () => across(-1),
    };
    if (targets[event.key]) {
      event.preventDefault();
      targets[event.key]().focus();
    }
  });
}
