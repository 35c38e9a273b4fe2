// Updates everything that follows the slider. Without a script the page shows the calibrated threshold.
for (const part of document.querySelectorAll("[data-positions]")) {
  const positions = JSON.parse(part.dataset.positions), last = positions.threshold.length - 1;
  const slider = part.querySelector("input"), mark = part.querySelector(".mark");
  const chart = part.querySelector(".scores svg");
  const show = (at) => {
    const missed = positions.missed[at], rejected = positions.rejected[at];
    const now = {
      threshold: positions.threshold[at], missed, rejected, caught: positions.defective - missed, passed: positions.good - rejected,
      missedShare: positions.missedShare[at], rejectedShare: positions.rejectedShare[at],
    };
    for (const place of part.querySelectorAll("[data-text]")) {
      const value = now[place.dataset.text];
      place.textContent = typeof value === "number" ? value.toLocaleString("en") : value;
    }
    for (const item of part.querySelectorAll("[data-at]")) {
      const isGood = at >= Number(item.dataset.at);
      item.hidden = item.dataset.side === "missed" ? !isGood : isGood;
    }
    for (const list of part.querySelectorAll("[data-list]")) {
      const shown = list.querySelectorAll("li[data-at]:not([hidden])").length;
      const count = now[list.dataset.list];
      list.querySelector(".none").hidden = count > 0;
      const more = list.querySelector(".more");
      more.hidden = count <= shown;
      more.textContent = `and ${(count - shown).toLocaleString("en")} more`;
    }
    slider.value = at;
    const missedWords = positions.defective ? `${missed} of ${positions.defective} missed, ` : "";
    slider.setAttribute("aria-valuetext", `${now.threshold}: ${missedWords}${rejected} of ${positions.good} rejected`);
    mark.style.left = `${(100 * at) / last}%`;
  };
  show(positions.start);
  slider.addEventListener("input", () => show(Number(slider.value)));
  part.querySelector(".back").addEventListener("click", () => show(positions.start));
  const pick = (event) => {
    if (event.buttons !== 1) return;
    const box = chart.getBoundingClientRect();
    show(Math.max(0, Math.min(last, Math.round(((event.clientX - box.left) / box.width) * last))));
  };
  chart.addEventListener("pointerdown", pick);
  chart.addEventListener("pointermove", pick);
}
