// A classic script, so that the remembered theme applies before the first paint.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
