// The row of photographs, with the state of each.

import {at, button, icon, imageOf} from "./dom.js";

const NAMES = {open: "", sending: "sending", filling: "filling", filled: "filled", failed: "failed"};

export class Filmstrip {
  // actions: show, remove, save (of a photograph); position(photograph) in the queue.
  constructor(workspace, position, actions) {
    Object.assign(this, {workspace, position, actions});
    this._items = new Map();
  }

  renew() {
    const {photographs, active} = this.workspace;
    at("strip").hidden = photographs.length < 2;
    for (const [photograph, item] of this._items) {
      if (photographs.includes(photograph)) continue;
      item.element.remove();
      this._items.delete(photograph);
    }
    for (const photograph of photographs) {
      const item = this._items.get(photograph) ?? this._add(photograph);
      this._renewItem(photograph, item, photograph === active);
    }
  }

  _add(photograph) {
    const element = document.createElement("li"), state = document.createElement("span");
    const thumb = button("thumb", photograph.name, () => this.actions.show(photograph));
    const take = button("corner-button take", `Download ${photograph.name}`, () => this.actions.save(photograph), icon("save"));
    const remove = button("corner-button remove", `Remove ${photograph.name}`, () => this.actions.remove(photograph), icon("close"));
    element.append(thumb, take, remove, state);
    at("photographs").append(element);
    const item = {element, thumb, take, state, shown: null};
    this._items.set(photograph, item);
    return item;
  }

  _renewItem(photograph, item, isActive) {
    if (item.shown !== photograph.thumbnail && photograph.thumbnail) {
      item.thumb.replaceChildren(imageOf(photograph.thumbnail, ""));
      item.shown = photograph.thumbnail;
    }
    item.element.toggleAttribute("aria-current", isActive);
    item.take.hidden = !photograph.isChanged;
    item.state.className = `state ${photograph.state}`;
    item.state.textContent = this._stateOf(photograph);
    item.state.title = photograph.error?.message ?? photograph.name;
  }

  _stateOf(photograph) {
    if (photograph.state === "waiting") {
      const position = this.position(photograph);
      return position ? `waiting, ${position} before` : "waiting";
    }
    if (photograph.state !== "open") return NAMES[photograph.state];
    return photograph.hasHole ? "hole painted" : photograph.name;
  }
}
