"use strict";

// Labels images with LiteRT.js. It runs in a worker, so that the page stays responsive.
//
// Messages in:  {kind: "start", settings, runtime, model, device}, then
//               {kind: "label", id, width, height, pixels}, with pixels of RGBA.
// Messages out: {kind: "ready", device}, {kind: "labels", id, width, height, labels,
//               networkMs, totalMs}, {kind: "failed", id, message}.

const MIN_AGREEMENT = 0.99; // of the GPU's labels with the CPU's, else the GPU is not used

let litert, model, settings;

self.onmessage = async ({data}) => {
  try {
    if (data.kind === "start") {
      settings = data.settings;
      await start(data);
    } else {
      const result = await label(data);
      postMessage(result, [result.labels.buffer]);
    }
  } catch (error) {
    postMessage({kind: "failed", id: data.id, message: String(error?.message ?? error)});
  }
};

// --- LiteRT.js ---------------------------------------------------------------------------------

async function start({runtime, model: file, device}) {
  const utils = scriptUrl(runtime.utils);
  const core = runtime.core.replaceAll('"@litertjs/wasm-utils"', JSON.stringify(utils));
  litert = await import(scriptUrl(core));
  const log = [];
  // With the WebAssembly given, the loader asks for no file.
  self.Module = {wasmBinary: runtime.wasm, print() {}, printErr: (line) => log.push(line)};
  try {
    await litert.loadLiteRt(`${scriptUrl(runtime.loader)}#.js`); // it looks for the ending
    model = await compiled(file, device);
  } catch (error) {
    throw new Error([String(error?.message ?? error), ...log.slice(-3)].join("\n"));
  }
  postMessage({kind: "ready", device: model.options.accelerator});
}

function scriptUrl(text) {
  return URL.createObjectURL(new Blob([text], {type: "text/javascript"}));
}

/** Compiles the model for the device that is wanted: "wasm", "webgpu", or the better one. */
async function compiled(file, device) {
  if (device === "webgpu") return litert.loadAndCompile(file, {accelerator: "webgpu"});
  const onCpu = await litert.loadAndCompile(file, {accelerator: "wasm"});
  if (device === "wasm" || !(await hasGpu())) return onCpu;
  const onGpu = await better(file, onCpu).catch(() => null);
  if (!onGpu) return onCpu;
  onCpu.delete();
  return onGpu;
}

async function hasGpu() {
  const adapter = await self.navigator.gpu?.requestAdapter().catch(() => null);
  // A fallback adapter is software on the CPU, which WebAssembly does faster.
  return Boolean(adapter && litert.getWebGpuDevice() && !adapter.info?.isFallbackAdapter);
}

/** Compiles the model for the GPU; null unless it is faster there and finds the same labels. */
async function better(file, onCpu) {
  const onGpu = await litert.loadAndCompile(file, {accelerator: "webgpu"});
  if (onGpu.isFullyAccelerated && onGpu.options.accelerator === "webgpu") {
    const image = testImage();
    await scoresOf(onGpu, image); // which compiles the shaders
    const [gpu, cpu] = [await scoresOf(onGpu, image), await scoresOf(onCpu, image)];
    if (gpu.ms < cpu.ms && agreement(gpu.scores, cpu.scores) >= MIN_AGREEMENT) return onGpu;
  }
  onGpu.delete();
  return null;
}

/** Returns stripes in many colours, as the network takes them. */
function testImage() {
  const [height, width] = settings.size;
  return Float32Array.from({length: height * width * 3}, (_, i) => (i * 7 + (i >> 9) * 31) % 256);
}

function agreement(a, b) {
  const classes = settings.classNames.length;
  let equal = 0;
  for (let i = 0; i < a.length; i += classes) {
    equal += argmax(a, i, classes) === argmax(b, i, classes);
  }
  return (equal * classes) / a.length;
}

/** Runs the network on a fitted image; returns its scores and the milliseconds it took. */
async function scoresOf(network, image) {
  const started = performance.now();
  const input = new litert.Tensor(image, [1, ...settings.size, 3]);
  const [output] = await network.run([input]);
  const scores = await output.data();
  input.delete();
  output.delete();
  return {scores, ms: performance.now() - started};
}

// --- From an image to its labels, as `predict --model=FILE.tflite` does it ----------------------

async function label({id, width, height, pixels}) {
  const started = performance.now();
  const {image, seen} = fitted(pixels, height, width);
  const {scores, ms} = await scoresOf(model, image);
  const labels = labelsOf(scores, seen, height, width);
  const totalMs = performance.now() - started;
  return {kind: "labels", id, width, height, labels, seen, networkMs: ms, totalMs};
}

/** Shrinks an image to fit into the network's size, and pads it at the bottom and right. */
function fitted(pixels, height, width) {
  let rows = pixelRows(pixels, height, width);
  for (const size of sizesOf(height, width)) rows = resized(rows, ...size);
  const [fullHeight, fullWidth] = settings.size;
  const pad = settings.padPixel.map(Math.fround);
  const image = new Float32Array(fullHeight * fullWidth * 3);
  for (let i = 0; i < image.length; i++) image[i] = pad[i % 3];
  for (let y = 0; y < rows.height; y++) {
    const row = rows.at(y);
    const start = y * fullWidth * 3;
    for (let i = 0; i < rows.width * 3; i++) {
      // Rounded as in Python, which pads the difference from the mean pixel with zeros.
      image[start + i] = Math.fround(row[i] - pad[i % 3]) + pad[i % 3];
    }
  }
  return {image, seen: [rows.height, rows.width]};
}

/** Returns the sizes that an image is resized to, one after the other. */
function sizesOf(height, width) {
  let own = [height, width];
  const sizes = [];
  if (settings.resizeRange) {
    own = sizeInRange(own, settings.resizeRange);
    sizes.push(own);
  }
  const scale = Math.min(...own.map((side, axis) => settings.size[axis] / side), 1);
  sizes.push(own.map((side) => Math.max(1, Math.floor(side * scale))));
  return sizes;
}

/** `transforms.resize_to_range_size`, which computes in float32. */
function sizeInRange(sides, {min, max, factor}) {
  const scaled = (bound, side) =>
    sides.map((each) => Math.trunc(Math.fround(each * Math.fround(bound / side))));
  let size = scaled(min, Math.min(...sides));
  if (max) {
    const largest = factor ? Math.floor((max - 1) / factor) * factor + 1 : max;
    if (Math.max(...size) > largest) size = scaled(largest, Math.max(...sides));
  }
  return factor ? size.map((side) => Math.ceil((side - 1) / factor) * factor + 1) : size;
}

/** Interpolates scores to the image's own size; returns the class of every pixel. */
function labelsOf(scores, [seenHeight, seenWidth], height, width) {
  const classes = settings.classNames.length;
  const [fullHeight, fullWidth] = settings.size;
  const [rows, columns] = settings.scoreSize;
  const full = resized(floatRows(scores, rows, columns, classes), fullHeight, fullWidth);
  const seen = {...full, height: seenHeight, width: seenWidth}; // without the padding
  const own = resized(seen, height, width);
  const labels = new (classes > 256 ? Uint16Array : Uint8Array)(height * width);
  for (let y = 0; y < height; y++) {
    const row = own.at(y);
    for (let x = 0; x < width; x++) labels[y * width + x] = argmax(row, x * classes, classes);
  }
  return labels;
}

function argmax(values, start, length) {
  let best = 0;
  for (let i = 1; i < length; i++) if (values[start + i] > values[start + best]) best = i;
  return best;
}

// Rows of an image or of scores, {height, width, channels, at}: at(y) returns a row, whose first
// width * channels numbers count. It stays valid until the next call.

function pixelRows(pixels, height, width) {
  const row = new Float32Array(width * 3);
  const at = (y) => {
    for (let x = 0, from = y * width * 4; x < width; x++, from += 4) {
      row[3 * x] = pixels[from];
      row[3 * x + 1] = pixels[from + 1];
      row[3 * x + 2] = pixels[from + 2];
    }
    return row;
  };
  return {height, width, channels: 3, at};
}

function floatRows(values, height, width, channels) {
  const length = width * channels;
  return {height, width, channels, at: (y) => values.subarray(y * length, (y + 1) * length)};
}

/** Resizes bilinearly with aligned corners, rounding as TensorFlow's ResizeBilinear does. */
function resized(source, height, width) {
  if (source.height === height && source.width === width) return source;
  const {channels} = source;
  const columns = neighbours(source.width, width);
  const rows = neighbours(source.height, height);
  // Two rows of the source, made as wide as the result.
  const wide = [0, 1].map(() => ({y: -1, row: new Float32Array(width * channels)}));
  const result = new Float32Array(width * channels);

  const wideRow = (y) => {
    const place = wide[y % 2];
    if (place.y !== y) {
      place.y = y;
      const from = source.at(y);
      const to = place.row;
      for (let x = 0, i = 0; x < width; x++) {
        const left = columns.lower[x] * channels;
        const right = columns.upper[x] * channels;
        const share = columns.share[x];
        for (let c = 0; c < channels; c++, i++) {
          const value = from[left + c];
          const step = Math.fround(from[right + c] - value);
          to[i] = Math.fround(value + Math.fround(step * share));
        }
      }
    }
    return place.row;
  };

  const at = (y) => {
    const top = wideRow(rows.lower[y]);
    const bottom = wideRow(rows.upper[y]);
    const share = rows.share[y];
    for (let i = 0; i < result.length; i++) {
      const step = Math.fround(bottom[i] - top[i]);
      result[i] = Math.fround(top[i] + Math.fround(step * share));
    }
    return result;
  };
  return {height, width, channels, at};
}

/** Returns between which two positions each one of the result lies, and where between them. */
function neighbours(from, to) {
  const scale = Math.fround(to > 1 ? (from - 1) / (to - 1) : from / to);
  const lower = new Int32Array(to);
  const upper = new Int32Array(to);
  const share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const position = Math.fround(i * scale);
    lower[i] = Math.floor(position);
    upper[i] = Math.min(lower[i] + 1, from - 1);
    share[i] = position - lower[i];
  }
  return {lower, upper, share};
}
