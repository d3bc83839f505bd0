// The page: reads the form, samples with the model, and shows the way.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { normal, timestepGrid, unipc } from "./sampler.js";

const element = id => document.getElementById(id);
const [form, button, status, slider] = ["form", "draw", "status", "frame"].map(element);
const MARGIN = 1; // pixels between images
let facts, session, frames = [];

async function start() {
  ort.env.wasm.numThreads = 1; // more need headers that a plain static host does not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", document.baseURI).href };
  facts = await (await fetch("model.json")).json();
  form.elements.steps.max = Math.min(100, facts.alpha_bar.length - 1);
  form.elements.steps.value = Math.min(20, form.elements.steps.max);
  if (facts.classes.length) {
    facts.classes.forEach((name, number) => form.elements.class.add(new Option(name, number)));
    document.querySelectorAll(".conditional").forEach(label => { label.hidden = false; });
  }
  session = await ort.InferenceSession.create(facts.file);
  button.disabled = false;
  status.textContent = "Ready";
}

// What the form asks of the images: { seed, images, steps, guidance, chosen }, `chosen` a class's number or NaN for all in turn.
function asked() {
  const value = name => Number(form.elements[name].value);
  const chosen = parseInt(form.elements.class.value, 10);
  return { seed: value("seed"), images: value("images"), steps: value("steps"), guidance: value("guidance"), chosen };
}

async function draw({ seed, images, steps, guidance, chosen }) {
  const [channels, height, width] = facts.shape, each = channels * height * width, kinds = facts.classes.length;
  const noise = new Float32Array(images * each);
  for (let image = 0; image < images; image++) noise.set(normal(seed, image, 0, each), image * each);
  const more = {};
  if (kinds) {
    const context = new Float32Array(images * kinds);
    for (let image = 0; image < images; image++) context[image * kinds + (Number.isNaN(chosen) ? image % kinds : chosen)] = 1;
    more.context = new ort.Tensor("float32", context, [images, kinds]);
    more.guidance = new ort.Tensor("float32", new Float32Array([guidance]), []);
  }
  const ask = async (x, t) => {
    const steps = new ort.Tensor("int64", new BigInt64Array(images).fill(BigInt(t)), [images]);
    const outputs = await session.run({ x_t: new ort.Tensor("float32", x, [images, channels, height, width]), t: steps, ...more });
    return outputs.x0_hat.data;
  };
  const began = performance.now();
  let done = 0;
  frames = [];
  for await (const state of unipc(ask, facts.alpha_bar, noise, timestepGrid(facts.alpha_bar, steps))) {
    frames.push({ t: state.t, x0: picture(state.x0, images), x: picture(state.x, images, state.t > 0) });
    show(frames.length - 1);
    done += 1;
    status.textContent = `Step ${done} of ${steps}, ${((performance.now() - began) / 1000).toFixed(1)} s`;
    await new Promise(resolve => setTimeout(resolve)); // lets the browser show it
  }
}

// Images side by side as ImageData. `stretched`: each from its least to its greatest value, for noise; else [-1, 1] is the range.
function picture(values, images, stretched = false) {
  const [channels, height, width] = facts.shape, area = height * width, perRow = Math.ceil(Math.sqrt(images));
  const data = new ImageData(perRow * (width + MARGIN) - MARGIN, Math.ceil(images / perRow) * (height + MARGIN) - MARGIN);
  for (let image = 0; image < images; image++) {
    const own = values.subarray(image * channels * area, (image + 1) * channels * area);
    const [least, greatest] = stretched ? [own.reduce((a, b) => Math.min(a, b)), own.reduce((a, b) => Math.max(a, b))] : [-1, 1];
    const left = (image % perRow) * (width + MARGIN), top = Math.floor(image / perRow) * (height + MARGIN);
    for (let pixel = 0; pixel < area; pixel++) {
      const place = 4 * ((top + Math.floor(pixel / width)) * data.width + left + (pixel % width));
      for (let colour = 0; colour < 3; colour++) {
        data.data[place + colour] = (255 * (own[(channels === 3 ? colour : 0) * area + pixel] - least)) / (greatest - least);
      }
      data.data[place + 3] = 255;
    }
  }
  return data;
}

function show(number) {
  const frame = frames[number];
  for (const name of ["x0", "x"]) {
    const canvas = element(name);
    [canvas.width, canvas.height] = [frame[name].width, frame[name].height];
    canvas.getContext("2d").putImageData(frame[name], 0, 0);
  }
  element("pictures").hidden = false;
  slider.max = frames.length - 1;
  slider.value = number;
  slider.setAttribute("aria-valuetext", `step ${number + 1} of ${frames.length}, t = ${frame.t}`);
}

function failed(error) {
  status.textContent = `This did not work: ${error.message ?? error}`;
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  button.disabled = true;
  element("way").hidden = true;
  try {
    await draw(asked());
    element("way").hidden = false;
    status.textContent = `Drawn. ${status.textContent}`;
  } catch (error) {
    failed(error);
  }
  button.disabled = false;
});
slider.addEventListener("input", () => show(Number(slider.value)));
start().catch(failed);
