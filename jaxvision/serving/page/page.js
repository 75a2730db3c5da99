"use strict";

const AT_ONCE = 4; // requests of this page; the server batches them
const find = (id) => document.getElementById(id);
// Dark blue, green, yellow, as matplotlib's viridis.
const COLORS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

let server = null; // what /health says
const queue = [];
let running = 0;
let stream = null;

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", wrong);
}

async function start() {
  try {
    server = await (await fetch("health")).json();
  } catch {
    find("about").textContent = "The server does not answer.";
    return;
  }
  document.title = `${server.model} · jaxvision`;
  document.querySelector("h1").textContent = server.model;
  const what = server.task === "captioning" ? "Says in words what is on images" : "Says what is on images";
  find("about").textContent = `${what}. Up to ${server.max_bytes / 2 ** 20} MB each.`;
  find("curl").textContent = `curl -F images=@photo.jpg ${location.origin}/predict`;
  server.samples.forEach((name, number) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = `samples/${number}`;
    image.alt = button.title = name;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", async () => {
      const answer = await fetch(`samples/${number}`);
      if (answer.ok) add([new File([await answer.blob()], name)]);
      else say("The sample is not there any more.", true);
    });
    find("samples").append(button);
  });
  find("samples").hidden = !server.samples.length;
}

/** Puts a card for each file on top of the page, and asks the server about it. */
function add(files) {
  if (!server) return say("The server does not answer.", true);
  const list = [...files];
  if (!list.length) return say("That was no image: drop, paste or choose image files.", true);
  say("");
  for (const file of list) {
    const card = find("card").content.cloneNode(true).firstElementChild;
    card.querySelector("h2").textContent = file.name;
    const image = card.querySelector("img");
    const address = URL.createObjectURL(file);
    image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    image.addEventListener("error", () => { image.hidden = true; }); // the browser cannot show TIFF
    image.src = address;
    find("results").prepend(card);
    if (file.size > server.max_bytes) {
      fail(card, `The image is larger than ${server.max_bytes / 2 ** 20} MB.`);
    } else {
      card.setAttribute("aria-busy", "true");
      queue.push([file, card]);
    }
  }
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    const [file, card] = queue.shift();
    ask(file, card)
      .catch((error) => fail(card, reason(error)))
      .finally(() => {
        running -= 1;
        card.removeAttribute("aria-busy");
        next();
      });
  }
  const waiting = running + queue.length;
  if (waiting) say(`${waiting} waiting ...`);
  else if (find("status").textContent.endsWith("waiting ...")) say("");
}

class Refused extends Error {} // by the server, in a sentence

async function ask(file, card) {
  const words = server.task === "captioning";
  const result = await send(file, words ? server.maps : []);
  show(result, card);
  if (words) wordMaps(result, card);
  else if (server.maps.length) explanations(file, result, card);
}

/** Returns what the server says of a file; waits while it has no room. */
async function send(file, maps, target = null) {
  for (;;) {
    const form = new FormData();
    form.append("images", file, file.name);
    for (const kind of maps) form.append("maps", kind);
    if (target !== null) form.append("target", target);
    const answer = await fetch("predict", { method: "POST", body: form });
    const told = await answer.json();
    if (answer.ok) return told.results[0];
    if (answer.status !== 503) throw new Refused(told.error);
    const seconds = Number(answer.headers.get("retry-after") || 1);
    await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
  }
}

function reason(error) {
  return error instanceof Refused ? error.message : "The server does not answer.";
}

function fail(card, text) {
  const caption = card.querySelector(".caption");
  caption.textContent = text;
  caption.classList.add("error");
  caption.hidden = false;
}

function show(result, card) {
  for (const guess of result.guesses || []) {
    const row = line(card, server.maps.length ? "button" : "div");
    const bar = part("bar", "");
    bar.style.width = `${100 * guess.probability}%`;
    row.append(
      bar,
      part("name", guess.name === null ? `class ${guess.index}` : guess.name),
      part("share", `${(100 * guess.probability).toFixed(1)} %`),
    );
  }
  (result.captions || []).forEach((each, number) => {
    if (!number) {
      card.querySelector(".caption").textContent = each.caption;
      card.querySelector(".caption").hidden = false;
    } else {
      line(card, "div").append(part("name", each.caption));
    }
  });
}

/** Adds a line below the image's name; a button chooses the class to explain. */
function line(card, kind) {
  const item = document.createElement("li");
  const row = document.createElement(kind);
  row.className = "row";
  if (kind === "button") row.type = "button";
  item.append(row);
  card.querySelector(".bars").append(item);
  return row;
}

function part(name, text) {
  const span = document.createElement("span");
  span.className = name;
  span.textContent = text;
  return span;
}

/** Adds a button for each word, which lays its map over the image. */
function wordMaps(result, card) {
  let shown = null;
  const buttons = (result.maps || []).map((map, number) => toggle(card, map.label, () => {
    shown = shown === number ? null : number;
    buttons.forEach((button, i) => press(button, i === shown));
    lay(shown === null ? null : map, result.seen, card);
  }));
}

/** Adds a button for each explanation; they and the bars choose what is laid over the image. */
function explanations(file, result, card) {
  const answers = new Map(); // by explanation and class
  const rows = [...card.querySelectorAll("button.row")];
  let kind = null;
  let target = result.guesses[0].index;
  const buttons = server.maps.map((name) => toggle(card, name, () => {
    kind = kind === name ? null : name;
    update();
  }));
  rows.forEach((row, i) => row.addEventListener("click", () => {
    target = result.guesses[i].index;
    kind = kind || server.maps[0];
    update();
  }));

  async function update() {
    buttons.forEach((button, i) => press(button, server.maps[i] === kind));
    rows.forEach((row, i) => press(row, kind !== null && result.guesses[i].index === target));
    if (kind === null) return lay(null, null, card);
    const wish = `${kind} ${target}`;
    if (!answers.has(wish)) answers.set(wish, send(file, [kind], target));
    card.setAttribute("aria-busy", "true");
    try {
      const answer = await answers.get(wish);
      if (wish === `${kind} ${target}`) lay(answer.maps[0], answer.seen, card);
    } catch (error) {
      answers.delete(wish);
      say(reason(error), true);
    } finally {
      card.removeAttribute("aria-busy");
    }
  }
}

function toggle(card, text, chosen) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  press(button, false);
  button.addEventListener("click", chosen);
  card.querySelector(".maps").append(button);
  card.querySelector(".maps").hidden = false;
  return button;
}

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

/** Lays a map over the image as the model saw it; null: takes it away. */
async function lay(map, seen, card) {
  const canvas = card.querySelector("canvas");
  const image = card.querySelector("img");
  const grey = card.querySelector(".picture").classList;
  grey.toggle("mapped", map !== null);
  canvas.hidden = true;
  if (map === null) return;
  image.hidden = false;
  if (image.src !== seen) image.src = seen;
  await image.decode();
  if (!grey.contains("mapped")) return; // taken away meanwhile
  draw(map.values, canvas, image);
  canvas.setAttribute("aria-label", `${map.kind}: ${map.label}`);
  canvas.hidden = false;
}

function draw(values, canvas, image) {
  const numbers = values.flat();
  const low = Math.min(...numbers);
  const range = Math.max(...numbers) - low || 1;
  const small = document.createElement("canvas");
  small.width = values[0].length;
  small.height = values.length;
  const pixels = new ImageData(small.width, small.height);
  numbers.forEach((value, i) => pixels.data.set([...color((value - low) / range), 255], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function color(share) {
  const place = share * (COLORS.length - 1);
  const i = Math.min(Math.floor(place), COLORS.length - 2);
  return COLORS[i].map((low, c) => low + (place - i) * (COLORS[i + 1][c] - low));
}

const drop = find("drop");
// Also beside the field: a browser would open the image in place of the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
find("choose").addEventListener("click", () => find("files").click());
find("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});

find("camera").addEventListener("click", async () => {
  try {
    // Browsers have no camera for pages of other machines without https.
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    say("There is no camera that this page may use.", true);
    return;
  }
  find("video").srcObject = stream;
  find("shooting").hidden = false;
});
find("shoot").addEventListener("click", () => {
  const video = find("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
});
find("leave").addEventListener("click", () => {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  find("shooting").hidden = true;
});

start();
