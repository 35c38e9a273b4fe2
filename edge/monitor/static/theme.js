// A classic script, so that the remembered theme applies before the first paint.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme").value = document.documentElement.dataset.theme;
});
document.addEventListener("change", ({ target }) => {
  if (target.id !== "theme") return;
  localStorage.setItem("theme", target.value);
  document.documentElement.dataset.theme = target.value;
}, { capture: true });
