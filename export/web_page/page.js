"use strict";

const MAX_SHOWN_SIDE = 1600; // pixels of the canvases; labels keep the image's own size
const MAX_PIXELS = 2 ** 26; // as many as `predict` reads
const NO_CLASS = [224, 224, 192];

const settings = JSON.parse(byId("settings").textContent);
const view = byId("view");
const imageCanvas = byId("image");
const overlayCanvas = byId("overlay");

// The image on the page: {name, width, height, labels, counts, cursor}; null before the first.
let shown = null;
let single = null; // the only class that is coloured; null for all
let camera = null; // the stream while it runs
let deviceName = "";

function byId(id) {
  return document.getElementById(id);
}

// --- The network, in its worker -----------------------------------------------------------------

const worker = new Worker(
  URL.createObjectURL(new Blob([byId("worker").textContent], {type: "text/javascript"})),
);
const waiting = new Map(); // by the id of a request: what settles its promise
const ready = new Promise((resolve, reject) => waiting.set(undefined, {resolve, reject}));
let lastId = 0;

worker.onmessage = ({data}) => {
  const {resolve, reject} = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.kind === "failed") reject(new Error(data.message));
  else resolve(data);
};
worker.onerror = (event) => {
  for (const {reject} of waiting.values()) reject(new Error(event.message));
  waiting.clear();
};

async function startNetwork() {
  const device = ["#wasm", "#webgpu"].includes(location.hash) ? location.hash.slice(1) : "";
  const [runtime, model] = await Promise.all([loadRuntime(), unpacked("model")]);
  worker.postMessage({kind: "start", settings, runtime, model, device});
  return ready;
}

/** Returns the parts of LiteRT.js: {core, utils, loader} as text, and the WebAssembly. */
async function loadRuntime() {
  const variant = settings.runtimes.relaxed && hasRelaxedSimd() ? "relaxed" : "compat";
  const {script, urls} = settings.runtimes[variant];
  if (script) await loadScript(script);
  const load = urls ? (name) => download(urls[name]) : unpacked;
  const loadText = async (name) => new TextDecoder().decode(await load(name));
  const [core, utils, loader, wasm] = await Promise.all([
    loadText("core"), loadText("utils"), loadText("loader"), load("wasm"),
  ]);
  return {core, utils, loader, wasm};
}

/** Whether the browser has the instruction i8x16.relaxed_swizzle, by a function that uses it. */
function hasRelaxedSimd() {
  return WebAssembly.validate(
    Uint8Array.of(
      0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1,
      253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
    ),
  );
}

function loadScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve;
    script.onerror = () => reject(new Error(`The file ${name} is not beside this page.`));
    script.src = name;
    document.body.append(script);
  });
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be loaded: status ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Returns the bytes of a part of the page, which is gzip in base64. */
async function unpacked(name) {
  if (!parts[name]) throw new Error(`The file ${name}.js is not beside this page.`);
  const packed = Uint8Array.from(atob(parts[name]), (letter) => letter.charCodeAt(0));
  delete parts[name];
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Labels pixels, RGBA; their buffer moves to the worker. */
async function labelled({width, height, data}) {
  const id = ++lastId;
  const result = new Promise((resolve, reject) => waiting.set(id, {resolve, reject}));
  worker.postMessage({kind: "label", id, width, height, pixels: data}, [data.buffer]);
  return result;
}

// --- Images and the camera ----------------------------------------------------------------------

async function openFile(file) {
  stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  } catch {
    fail(`${file.name} is not an image that this browser can read.`);
    return;
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    fail(`${file.name} has ${bitmap.width} x ${bitmap.height} pixels: make it smaller.`);
    return;
  }
  await show(bitmap, file.name);
}

/** Labels an image and shows it; does nothing if another one was chosen meanwhile. */
async function show(bitmap, name) {
  if (!camera) tell("Labelling ...");
  const {width, height} = bitmap;
  try {
    await ready;
    const request = labelled(pixelsOf(bitmap, name));
    const id = lastId;
    const result = await request;
    if (id !== lastId) return;
    shown = {name, width, height, labels: result.labels, counts: count(result.labels), cursor: null};
    paintImage(bitmap);
    paintOverlay();
    listClasses();
    tell(timing(result));
  } catch (error) {
    fail(error.message);
  } finally {
    bitmap.close();
  }
}

/** Returns the pixels of an image, RGBA. A canvas that is too large for the browser stays empty. */
function pixelsOf(bitmap, name) {
  const {width, height} = bitmap;
  const canvas = context(new OffscreenCanvas(width, height));
  canvas.fillRect(0, 0, 1, 1);
  if (!canvas.getImageData(0, 0, 1, 1).data[3]) {
    const size = `${width} x ${height} pixels`;
    throw new Error(`${name} has ${size}, too many for this browser: make it smaller.`);
  }
  canvas.clearRect(0, 0, 1, 1);
  canvas.drawImage(bitmap, 0, 0);
  return canvas.getImageData(0, 0, width, height);
}

function timing({width, height, seen, networkMs, totalMs}) {
  const [seenHeight, seenWidth] = seen;
  const ms = (value) => `${Math.round(value)} ms`;
  const shrunk = seenWidth === width && seenHeight === height ? "" : ` as ${seenWidth} x ${seenHeight}`;
  return (
    `${width} x ${height} pixels${shrunk}: ${ms(totalMs)}, of which ${ms(networkMs)} in the ` +
    `network on the ${deviceName}.`
  );
}

async function startCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    fail(`The camera cannot be used: ${error.message}.`);
    return;
  }
  const stream = camera;
  const video = document.createElement("video");
  Object.assign(video, {srcObject: stream, muted: true, playsInline: true});
  await video.play();
  pressCamera(true);
  while (camera === stream) await show(await createImageBitmap(video), "camera");
  endTracks(stream); // of a camera that was started twice
}

function endTracks(stream) {
  stream.getTracks().forEach((track) => track.stop());
}

function stopCamera() {
  if (camera) endTracks(camera);
  camera = null;
  pressCamera(false);
}

function pressCamera(isOn) {
  const button = byId("camera");
  button.setAttribute("aria-pressed", isOn);
  button.textContent = isOn ? "Stop the camera" : "Use the camera";
  byId("status").setAttribute("aria-live", isOn ? "off" : "polite"); // not read for every frame
}

// --- What is shown ------------------------------------------------------------------------------

function context(canvas) {
  return canvas.getContext("2d", {willReadFrequently: true});
}

function tell(text) {
  byId("status").className = "";
  byId("status").textContent = text;
}

function fail(text) {
  byId("status").className = "wrong";
  byId("status").textContent = text;
}

function count(labels) {
  const counts = new Array(settings.classNames.length).fill(0);
  for (const label of labels) counts[label]++;
  return counts;
}

function colorOf(label) {
  return settings.colors[label] ?? NO_CLASS;
}

function paintImage(bitmap) {
  const scale = Math.min(1, MAX_SHOWN_SIDE / Math.max(bitmap.width, bitmap.height));
  for (const canvas of [imageCanvas, overlayCanvas]) {
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  }
  context(imageCanvas).drawImage(bitmap, 0, 0, imageCanvas.width, imageCanvas.height);
  view.style.setProperty("--ratio", bitmap.width / bitmap.height);
  byId("hint").hidden = true;
  byId("stage").className = "";
  byId("save").disabled = false;
  view.hidden = false;
}

/** Paints every pixel in the colour of its class, and white where the class changes. */
function paintOverlay() {
  const {width, height} = overlayCanvas;
  const painted = new ImageData(width, height);
  const words = new Uint32Array(painted.data.buffer);
  const palette = Uint32Array.from(settings.classNames, (_, label) => {
    const [red, green, blue] = colorOf(label);
    const isShown = single === null || single === label;
    return isShown ? (255 << 24) | (blue << 16) | (green << 8) | red : 0;
  });
  let above = null;
  for (let y = 0; y < height; y++) {
    const row = Array.from({length: width}, (_, x) => labelAt((x + 0.5) / width, (y + 0.5) / height));
    for (let x = 0; x < width; x++) {
      const isBorder = (x && row[x] !== row[x - 1]) || (above && row[x] !== above[x]);
      words[y * width + x] = isBorder && palette[row[x]] ? 0xffffffff : palette[row[x]];
    }
    above = row;
  }
  context(overlayCanvas).putImageData(painted, 0, 0);
}

/** Returns the label at a place of the image, whose width and height count as 1. */
function labelAt(x, y) {
  const {width, height, labels} = shown;
  const inside = (share, side) => Math.min(side - 1, Math.max(0, Math.floor(share * side)));
  return labels[inside(y, height) * width + inside(x, width)];
}

/** Lists the classes of the image, the largest share first. */
function listClasses() {
  const {counts, labels} = shown;
  const present = [...counts.keys()].filter((label) => counts[label]);
  present.sort((a, b) => counts[b] - counts[a] || a - b);
  if (single !== null && !counts[single]) chooseClass(null);
  byId("legend-hint").textContent = "Choose a class to see it alone.";
  const focused = document.activeElement?.closest?.("#legend button")?.dataset.label;
  byId("legend").replaceChildren(
    ...present.map((label) => legendEntry(label, counts[label] / labels.length)),
  );
  if (focused) byId("legend").querySelector(`[data-label="${focused}"]`)?.focus();
  const largest = present.slice(0, 5).map(
    (label) => `${settings.classNames[label]} ${percent(counts[label] / labels.length)}`,
  );
  view.setAttribute(
    "aria-label",
    `Label map of ${shown.name}: ${largest.join(", ")}. The arrow keys move over the image and ` +
      "read the class of a pixel.",
  );
}

function legendEntry(label, share) {
  const button = document.createElement("button");
  const [swatch, name, part] = ["i", "span", "span"].map((tag) => document.createElement(tag));
  swatch.style.background = `rgb(${colorOf(label)})`;
  name.textContent = settings.classNames[label];
  part.textContent = percent(share);
  button.type = "button";
  button.dataset.label = label;
  button.setAttribute("aria-pressed", single === label);
  button.append(swatch, name, part);
  button.onclick = () => chooseClass(single === label ? null : label);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function chooseClass(label) {
  single = label;
  for (const button of byId("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", Number(button.dataset.label) === single);
  }
  paintOverlay();
}

// --- The class of a pixel -----------------------------------------------------------------------

function tellPixel(x, y) {
  const [column, row] = [Math.floor(x * shown.width), Math.floor(y * shown.height)];
  byId("pixel").textContent = `${settings.classNames[labelAt(x, y)]} at ${column}, ${row}`;
}

function pointAt(event) {
  if (!shown) return;
  const box = view.getBoundingClientRect();
  const inside = (value) => Math.min(1 - 1e-9, Math.max(0, value));
  byId("cross").hidden = true;
  tellPixel(
    inside((event.clientX - box.left) / box.width),
    inside((event.clientY - box.top) / box.height),
  );
}

const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

function moveCursor(event) {
  const step = STEPS[event.key];
  if (!shown || !step) return;
  event.preventDefault();
  const {width, height} = shown;
  const [x, y] = shown.cursor ?? [Math.floor(width / 2), Math.floor(height / 2)];
  const length = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / 40));
  const inside = (value, side) => Math.min(side - 1, Math.max(0, value));
  shown.cursor = [inside(x + step[0] * length, width), inside(y + step[1] * length, height)];
  const place = [(shown.cursor[0] + 0.5) / width, (shown.cursor[1] + 0.5) / height];
  const cross = byId("cross");
  cross.hidden = false;
  [cross.style.left, cross.style.top] = place.map((share) => `${100 * share}%`);
  tellPixel(...place);
}

// --- Saving -------------------------------------------------------------------------------------

/** Returns the labels as `predict` writes them: a palette PNG, or grey of 16 bits. */
async function labelPng({width, height, labels}) {
  const hasPalette = labels.BYTES_PER_ELEMENT === 1;
  const size = labels.BYTES_PER_ELEMENT;
  const rows = new Uint8Array(height * (1 + width * size)); // each begins with its filter, none
  for (let y = 0; y < height; y++) {
    const start = y * (1 + width * size) + 1;
    const row = labels.subarray(y * width, (y + 1) * width);
    if (hasPalette) rows.set(row, start);
    else row.forEach((label, x) => rows.set([label >> 8, label & 255], start + 2 * x));
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * size);
  header.setUint8(9, hasPalette ? 3 : 0); // colours of a palette, or grey
  const palette = Uint8Array.from({length: 768}, (_, i) => colorOf(Math.floor(i / 3))[i % 3]);
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const chunks = [
    pngChunk("IHDR", new Uint8Array(header.buffer)),
    ...(hasPalette ? [pngChunk("PLTE", palette)] : []),
    pngChunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
    pngChunk("IEND", new Uint8Array(0)),
  ];
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...chunks], {type: "image/png"});
}

function pngChunk(kind, content) {
  const chunk = new Uint8Array(content.length + 12);
  const numbers = new DataView(chunk.buffer);
  numbers.setUint32(0, content.length);
  chunk.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  chunk.set(content, 8);
  numbers.setUint32(content.length + 8, crc32(chunk.subarray(4, -4)));
  return chunk;
}

const CRC_TABLE = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

async function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await labelPng(shown));
  link.download = `${shown.name.replace(/\.\w+$/, "")}_labels.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- What people do -----------------------------------------------------------------------------

byId("file").onchange = ({target}) => {
  if (target.files.length) openFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
};
byId("camera").onclick = () => (camera ? stopCamera() : startCamera());
byId("save").onclick = save;
byId("opacity").oninput = ({target}) => {
  overlayCanvas.style.opacity = target.value / 100;
  target.nextElementSibling.value = `${target.value} %`;
};
view.onpointermove = pointAt;
view.onpointerdown = pointAt;
view.onkeydown = moveCursor;
document.ondragover = (event) => {
  event.preventDefault();
  byId("stage").classList.add("over");
};
document.ondragleave = () => byId("stage").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  byId("stage").classList.remove("over");
  openFirst(event.dataTransfer.files);
};
document.onpaste = (event) => openFirst(event.clipboardData.files);

function openFirst(files) {
  if (files.length) openFile(files[0]);
  else fail("That is not an image file.");
}

if (!navigator.mediaDevices?.getUserMedia) {
  byId("camera").disabled = true;
  byId("camera").title = "This browser gives the camera only to pages at https:// or localhost.";
}

startNetwork().then(
  ({device}) => {
    deviceName = device === "webgpu" ? "GPU (WebGPU)" : "CPU (WebAssembly)";
    tell(`Ready. The network runs on the ${deviceName}.`);
  },
  (error) => fail(`The network cannot start. ${error.message}`),
);
