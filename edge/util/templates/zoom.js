// Enlarges a picture to the size of the window: its file beside the page, if it has one, or else the picture in the page.
// A click or Escape closes it.
const zoom = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const picture = button.querySelector("img"), large = zoom.querySelector("img");
    large.onerror = () => {
      large.onerror = null;
      large.src = picture.src;
    };
    large.src = button.dataset.file ?? picture.src;
    large.alt = picture.alt;
    zoom.querySelector("p").textContent = button.dataset.caption;
    zoom.showModal();
  });
}
zoom.addEventListener("click", () => zoom.close());
