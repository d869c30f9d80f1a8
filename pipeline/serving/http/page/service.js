// Requests to the service.

const BUSY_TRIES = 30;

export class Refused extends Error {
  constructor(status, message, waitS = 0) {
    super(message);
    this.status = status;
    this.waitS = waitS;
  }
}

function keyHeaders(key) {
  return key ? {"X-API-Key": key} : {};
}

// The models that are served: [{name, version, reference, ...}].
export async function listModels(key) {
  const reply = await fetch("v1/models", {headers: keyHeaders(key)}).catch(() => null);
  const answer = await reply?.json().catch(() => null);
  if (!reply?.ok || !answer) {
    throw new Refused(reply?.status ?? 0, answer?.error?.message ?? "The service does not answer yet; reload the page in a moment.");
  }
  return answer.models;
}

const MASK_TROUBLES = {
  empty_mask: "marks no hole: white, paint on transparency, or an erased part is the hole.",
  full_mask: "marks the whole photograph: leave something to fill it from.",
  bad_request: "does not show which part is the hole: save it without transparency, white in the hole.",
};

// A mask file as the service reads it: a PNG, white in the hole. One rule holds for page and
// service, and a canvas would lose the colours of transparent pixels.
export async function readMask(file, key) {
  const form = new FormData();
  form.append("mask", file, "mask");
  const reply = await fetch("v1/mask", {method: "POST", body: form, headers: keyHeaders(key)}).catch(() => null);
  if (reply?.ok) return reply.blob();
  const error = (await reply?.json().catch(() => null))?.error;
  const trouble = MASK_TROUBLES[error?.code] ?? error?.message ?? "was not read: the service does not answer; try again.";
  throw new Refused(reply?.status ?? 0, `${file.name}${error && !MASK_TROUBLES[error.code] ? ":" : ""} ${trouble}`);
}

// How many costly requests are inside the service; null if it does not tell.
export async function requestsInside() {
  const reply = await fetch("metrics").catch(() => null);
  if (!reply?.ok) return null;
  const found = (await reply.text()).match(/^infill_requests_inside\S* (\S+)$/m);
  return found ? Number(found[1]) : null;
}

// Fill a hole. `onState` hears of {sent: 0 to 1}, then of {filling: true}, and of {busyS} while
// the service has no room; `signal` cancels. Returns {pictures: [Blob], model, holeRatio, scale, ms}.
export async function inpaint({picture, mask, fields, key, signal, onState}) {
  const form = new FormData();
  form.append("image", picture, "photograph");
  form.append("mask", mask, "mask.png");
  form.append("output_format", "png");  // Nothing is lost between two edits.
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (let tries = 1; ; tries++) {
    try {
      return answered(await send(form, key, signal, onState));
    } catch (error) {
      if (error.status !== 503 || tries === BUSY_TRIES) throw error;
      onState({busyS: error.waitS || 1, message: error.message});
      await pause(error.waitS || 1, signal);
    }
  }
}

// XMLHttpRequest, because fetch does not report how much is sent.
function send(form, key, signal, onState) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const cancel = () => request.abort();
    request.open("POST", "v1/inpaint");
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    for (const [name, value] of Object.entries(keyHeaders(key))) request.setRequestHeader(name, value);
    request.upload.onprogress = event => onState({sent: event.total ? event.loaded / event.total : 0});
    request.upload.onload = () => onState({filling: true});
    request.onload = () => {
      const {status, response} = request;
      if (status === 200 && response) return resolve(response);
      const message = response?.error?.message ?? `The service answered ${status}.`;
      reject(new Refused(status, message, Number(request.getResponseHeader("Retry-After")) || 0));
    };
    request.onerror = () => reject(new Refused(0, "The service does not answer; try again."));
    request.onabort = () => reject(signal.reason);
    request.onloadend = () => signal.removeEventListener("abort", cancel);
    signal.addEventListener("abort", cancel);
    request.send(form);
  });
}

function answered(answer) {
  const pictures = (answer.images ?? [answer.image]).map(text => {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    return new Blob([bytes], {type: "image/png"});
  });
  return {pictures, model: answer.model, holeRatio: answer.hole_ratio, scale: answer.scale, ms: answer.timings.total_ms};
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, {once: true});
  });
}

// The modes of processing, from the service's own description; none if it does not tell.
export async function listModes() {
  const reply = await fetch("openapi.json").catch(() => null);
  const described = await reply?.json().catch(() => null);
  const body = described?.paths?.["/v1/inpaint"]?.post?.requestBody?.content?.["multipart/form-data"];
  return body?.schema?.properties?.mode?.enum ?? [];
}
