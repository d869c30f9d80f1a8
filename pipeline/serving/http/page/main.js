// The page: joins the photographs, the view, the tools, the requests and the controls.

import {Compare} from "./compare.js";
import {at, button, imageOf, press} from "./dom.js";
import {resultFile, save, stemOf} from "./download.js";
import {exampleFile, paintExample} from "./example.js";
import {FillQueue} from "./fill_queue.js";
import {Filmstrip} from "./filmstrip.js";
import {Guides} from "./guides.js";
import {Keys} from "./keys.js";
import {maskLevels, softMaskFile} from "./mask.js";
import * as operations from "./mask_operations.js";
import {Messages} from "./messages.js";
import {openFromOutside} from "./outside.js";
import {Pointer} from "./pointer.js";
import {readMask} from "./service.js";
import {Settings} from "./settings.js";
import {startTheme} from "./theme.js";
import {Tools} from "./tools.js";
import {ToolOptions} from "./tool_options.js";
import {View} from "./view.js";
import {Workspace} from "./workspace.js";

const stage = at("stage");
const workspace = new Workspace(changed);
const view = new View(stage, at("picture"), at("hole"), moved);
const guides = new Guides(view);
const tools = new Tools({
  view,
  current: () => (workspace.active?.isEditable ? workspace.active : null),
  outline: (points, closed) => guides.outline(points, closed),
  onEdit: record,
});
const options = new ToolOptions(tools, () => workspace.active, () => { guides.renew(tools); cursor(); });
const compare = new Compare(view);
const settings = new Settings(error => {
  messages.say(error.message, true);
  if (error.status === 401) openSheet(true);
});
const queue = new FillQueue(() => settings.request(), filled);
const messages = new Messages(() => workspace.active, photograph => queue.position(photograph));
const strip = new Filmstrip(workspace, photograph => queue.position(photograph), {
  show: photograph => workspace.show(photograph),
  remove,
  save: download,
});
const actions = {
  undo: () => travel("undo"),
  redo: () => travel("redo"),
  fill,
  fit: () => view.fit(),
  actualSize: () => view.zoomTo(1),
  zoom: factor => view.zoomTo(view.scale * factor),
  tool: name => options.choose(name),
  resize: steps => options.resize(steps),
  compare: () => compare.toggle().catch(() => messages.say("The file of this photograph cannot be read any more: download the result before you leave.", true)),
  download: () => download(workspace.active),
  choose: () => at("file").click(),
  help: () => at("keys").showModal(),
  escape,
  cursor,
};
const pointer = new Pointer({
  stage, view, tools, isPanning,
  onHover: (point, kind) => {
    if (point) keys.spot = null;
    guides.point(tools.isPainting && kind !== "touch" ? point : null, tools.size);
  },
});
const keys = new Keys({
  canvas: at("hole"), view, tools, pointer, actions,
  onSpot: spot => guides.point(spot, tools.size),
});

// Something about a photograph, or the list of them, has changed.
function changed(photograph, edit) {
  const {active} = workspace;
  if (active !== view.photograph) {
    tools.cancel();
    compare.stop();
    messages.forget();
    at("options").hidden = !active;  // What takes room comes before the photograph is fitted.
    strip.renew();
    view.show(active);
    options.renew();
  } else if (photograph === active) {
    if (compare.isOn && !active?.isChanged) compare.stop();
    if (edit) view.changed(edit.rect);
    else view.renew();
  }
  renew();
}

// An edit of the hole by a tool or a button.
function record(photograph, edit) {
  if (!edit) return;
  if (!photograph.isBusy) photograph.state = "open";
  messages.forget();
  compare.stop();
  photograph.history.push(edit);
}

function filled(photograph) {
  if (photograph.error?.status === 401) {
    settings.wantKey();
    openSheet(true);
  }
  if (photograph.state === "filled" && photograph !== workspace.active) photograph.release();
  renew();
}

// What can be done now, and what is said.
function renew() {
  const {active, photographs} = workspace;
  const idle = Boolean(active) && !active.isBusy, hole = idle && active.hasHole;
  at("drop").hidden = Boolean(active);
  at("options").hidden = !active;
  at("name").textContent = active?.name ?? "";
  at("dimensions").textContent = active ? `${active.width} × ${active.height} px` : "";
  at("undo").disabled = !idle || !active.history.done.length;
  at("redo").disabled = !idle || !active.history.undone.length;
  at("compare").disabled = at("save").disabled = !active?.isChanged;
  for (const id of ["clear", "grow", "feather", "mask-save", "fill"]) at(id).disabled = !hole;
  for (const id of ["invert", "mask-load"]) at(id).disabled = !idle;
  at("fill").textContent = active?.isBusy ? "Filling…" : "Fill";
  at("fill-all").disabled = !photographs.some(one => one.hasHole && !one.isBusy);
  at("same-hole").disabled = !hole;
  at("save-all").disabled = !photographs.some(one => one.isChanged);
  renewSamples(active);
  strip.renew();
  messages.renew();
  cursor();
}

let shownSamples = null;
function renewSamples(active) {
  const samples = active && !active.isBusy && active.samples.length > 1 ? active.samples : [];
  at("samples").hidden = !samples.length;
  if (samples !== shownSamples) {
    at("samples").replaceChildren(...samples.map((sample, index) => button(
      "", `Sample ${index + 1}`, () => active.chooseSample(index), imageOf(sample, ""),
    )));
    shownSamples = samples;
  }
  [...at("samples").children].forEach((one, index) => press(one, index === active.history.last.shown));
}

function moved() {
  at("zoom").textContent = `${Math.round(100 * view.scale)} %`;
  guides.renew(tools);
  compare.follow();
}

function isPanning() {
  return tools.name === "hand" || keys.isSpaceHeld || compare.isOn || Boolean(workspace.active?.isBusy);
}

function cursor() {
  const busy = workspace.active?.isBusy ?? false;
  stage.classList.toggle("hand", isPanning() && !busy);
  stage.classList.toggle("locked", busy);
  stage.classList.toggle("brush", Boolean(workspace.active) && tools.isPainting && !isPanning());
}

// What the buttons and keys do.
function travel(way) {
  const {active} = workspace;
  if (!active || active.isBusy || tools.cancel()) return;
  active.state = "open";
  messages.forget();
  active.history[way]();
}

async function fill() {
  const {active} = workspace;
  await active?.history.settled;
  if (!active?.hasHole || active.isBusy) return;
  tools.cancel();
  compare.stop();
  openSheet(false);
  messages.forget();
  queue.add(active);
}

async function fillAll() {
  await Promise.all(workspace.photographs.map(one => one.history.settled));
  workspace.photographs.filter(one => one.hasHole).forEach(one => queue.add(one));
}

function remove(photograph) {
  queue.cancel(photograph);
  workspace.remove(photograph);
}

async function download(photograph) {
  if (!photograph?.isChanged) return;
  const {name, data} = await resultFile(photograph, settings.format);
  save(data, name);
}

function escape() {
  if (document.body.classList.contains("sheet")) openSheet(false);
  else if (tools.cancel()) return true;
  else if (compare.isOn) compare.stop();
  else if (workspace.active?.isBusy) queue.cancel(workspace.active);
  else return false;
  return true;
}

async function change(operation, ...values) {
  const {active} = workspace;
  await active?.history.settled;
  if (active?.isEditable) record(active, operation(active.mask, ...values));
}

async function loadMask(file) {
  const {active} = workspace;
  if (!file || !active) return;
  try {
    const read = await readMask(file, settings.key);
    const levels = await maskLevels(read, active.width, active.height, file.name);
    await active.history.settled;
    if (active.isEditable) record(active, operations.replace(active.mask, levels));
  } catch (error) {
    messages.say(error.message, true);
  }
}

// Put the hole that is shown into every other photograph of the same size.
function copyHole() {
  const {active, photographs} = workspace;
  const others = photographs.filter(one => one !== active && one.isEditable);
  const alike = others.filter(one => one.width === active.width && one.height === active.height);
  for (const one of alike) record(one, operations.replace(one.mask, active.mask.levels));
  const rest = others.length - alike.length;
  messages.say(`The hole is now in ${alike.length + 1} photographs${rest ? `; ${rest} of another size are left as they were` : ""}.`);
}

async function open(files) {
  const {opened, refused} = await workspace.open(files);
  if (!refused.length) return;
  const names = refused.length > 3 ? `${refused.length} files` : refused.join(", ");
  const kept = opened.length ? "" : " Your work is as it was.";
  messages.say(`${names}: no picture that a browser can read; take PNG, JPEG or WebP.${kept}`, true);
}

function openSheet(isOpen) {
  const was = document.body.classList.contains("sheet");
  document.body.classList.toggle("sheet", isOpen && at("settings").offsetParent !== null);
  at("settings").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) at("sheet-close").focus();
  else if (was) at("settings").focus();
}

const amount = id => Math.min(500, Math.max(1, Math.round(Number(at(id).value)) || 1));
const clicks = {
  undo: actions.undo, redo: actions.redo, fit: actions.fit, zoom: actions.actualSize,
  "zoom-in": () => actions.zoom(1.25), "zoom-out": () => actions.zoom(0.8),
  compare: actions.compare, help: actions.help, other: actions.choose, choose: actions.choose,
  save: actions.download, fill, cancel: () => queue.cancel(workspace.active),
  clear: () => change(operations.clear), invert: () => change(operations.invert),
  grow: () => change(operations.grow, amount("grow-px")),
  feather: () => change(operations.feather, amount("feather-px")),
  "mask-load": () => at("mask-file").click(),
  "mask-save": async () => save(await softMaskFile(workspace.active.mask), `${stemOf(workspace.active)}-mask.png`),
  "fill-all": fillAll,
  "same-hole": copyHole,
  "save-all": async () => { for (const one of workspace.photographs) await download(one); },
  settings: () => openSheet(!document.body.classList.contains("sheet")),
  "sheet-close": () => openSheet(false),
};
for (const [id, act] of Object.entries(clicks)) at(id).addEventListener("click", () => act());
at("panel").addEventListener("submit", event => event.preventDefault());
document.body.addEventListener("click", event => {
  if (event.target === document.body) openSheet(false);  // Beside the sheet.
});
at("mask-file").addEventListener("change", event => {
  loadMask(event.target.files[0]);
  event.target.value = "";
});
openFromOutside(stage, at("file"), open);
startTheme(at("theme"), () => view.renew());
options.renew();
renew();
settings.load();
exampleFile().then(async file => {
  if (!file) return;
  await workspace.openExample(file, paintExample);
  if (workspace.example) messages.keep("An example: press Fill, or open photographs of your own.");
});
