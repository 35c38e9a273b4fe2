// Shows the reference in place of the frame, where the frame shows the part, and the frame again.

import { getBlob } from "./live.js";
import { isTyping } from "./marking.js";

export class Blend {
  #button;
  #stage;
  #say;
  #id = null;

  /** @param say shows a sentence to the user. */
  constructor(button, stage, say) {
    this.#button = button;
    this.#stage = stage;
    this.#say = say;
    button.onmousedown = (event) => event.preventDefault(); // the keyboard stays where it is
    button.onclick = () => this.#switch();
    this.show(null);
  }

  /** @param id of the picture that is shown, if it has a reference; null: it has none. */
  show(id) {
    this.#id = id;
    this.#button.hidden = id === null;
    this.#set(false);
  }

  /** Handle a key; return whether it was for the reference. */
  key(event) {
    const isMine = event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!isMine || this.#id === null || isTyping(event)) return false;
    this.#switch();
    return true;
  }

  async #switch() {
    const id = this.#id;
    const isOn = this.#button.ariaPressed !== "true";
    this.#set(isOn);
    if (!isOn || this.#stage.hasReference) return;
    try {
      const reference = await getBlob(`/api/pictures/${id}/reference.jpg`);
      if (id === this.#id) await this.#stage.drawReference(reference);
    } catch (error) {
      if (id !== this.#id) return;
      this.#set(false);
      this.#say(`The reference cannot be shown: ${error.message}.`);
    }
  }

  #set(isOn) {
    this.#button.ariaPressed = String(isOn);
    this.#stage.blended = isOn;
  }
}
