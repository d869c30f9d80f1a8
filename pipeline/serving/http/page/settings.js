// The choices of the panel: model, mode, samples, seed, key, format. The service lists them.

import {at} from "./dom.js";
import {listModels, listModes} from "./service.js";

const MODES = {
  auto: "Automatic",
  crop: "Around the hole",
  resize: "Whole, reduced",
  refine: "Reduced, then refined",
  tile: "Tiles at full size",
  subsample: "Interleaved",
};

export class Settings {
  constructor(onProblem) {
    this._onProblem = onProblem;
    this._models = [];
    at("key").addEventListener("change", () => this.load());
    at("model").addEventListener("change", () => this._showModel());
  }

  async load() {
    const modes = await listModes();
    if (modes.length && !at("mode").options.length) {
      at("mode").replaceChildren(...modes.map(mode => new Option(MODES[mode] ?? mode, mode)));
    }
    try {
      this._models = await listModels(this.key);
    } catch (error) {
      if (error.status === 401) this.wantKey();
      this._onProblem(error);
      return;
    }
    const options = this._models.map(model => new Option(`${model.name}@${model.version}`, model.reference));
    at("model").replaceChildren(...options);
    this._showModel();
  }

  get key() {
    return at("key").value;
  }

  get format() {
    return at("format").value;
  }

  // What a request sends beside the files; fields at their default are left out.
  request() {
    const fields = {};
    if (at("model").value) fields.model = at("model").value;
    if (at("mode").value && at("mode").value !== "auto") fields.mode = at("mode").value;
    if (at("seed").value !== "") fields.seed = at("seed").value;
    if (Number(at("count").value) > 1 && !at("samples-row").hidden) fields.samples = at("count").value;
    return {fields, key: this.key};
  }

  wantKey() {
    at("keyed").hidden = false;
  }

  // Several samples, and a seed, only where the model can use them.
  _showModel() {
    const model = this._models.find(one => one.reference === at("model").value);
    const one = model?.several_samples === false;
    at("samples-row").hidden = at("seed-row").hidden = one;
  }
}
