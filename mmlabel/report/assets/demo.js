"use strict";
const at = (id) => document.getElementById(id);
const form = at("asked");
const looksAt = { pictures: form.dataset.pictures === "1", captions: form.dataset.captions === "1" };
let file = null;
let answer = null;
let maps = [];
let chosen = 0;
let asked = 0;
const unanswered = looksAt.pictures ? at("where").textContent : "";

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);
}

function cell(row, text, css) {
  const made = row.insertCell();
  made.textContent = text;
  made.className = css;
  return made;
}

function effect(row, value) {
  cell(row, signed(value), value < 0 ? "n against" : "n for");
}

// Blue speaks for the label and red against it; the strongest place is opaque.
function colour(value, most) {
  const [r, g, b] = value < 0 ? [200, 30, 50] : [29, 78, 216];
  return [r, g, b, Math.round(255 * Math.min(1, Math.abs(value) / most))];
}

function drawHeat() {
  const canvas = at("heat");
  if (!canvas) return;
  const map = maps[chosen];
  const cells = map ? map.length : 1;
  canvas.width = canvas.height = cells;
  if (!map) return;
  const most = Math.max(0.5, ...map.flat().map(Math.abs));
  const pixels = canvas.getContext("2d").createImageData(cells, cells);
  pixels.data.set(map.flat().flatMap((value) => colour(value, most)));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function drawWords() {
  const place = at("words");
  if (!place) return;
  place.replaceChildren();
  const most = Math.max(0.5, ...answer.words.map((one) => Math.abs(one.effects[chosen])));
  for (const { word, effects } of answer.words) {
    const value = effects[chosen];
    const [r, g, b, strength] = colour(value, most);
    const made = document.createElement("span");
    made.textContent = word;
    made.style.background = `rgba(${r}, ${g}, ${b}, ${(strength / 255) * 0.35})`;
    const size = document.createElement("small");
    size.textContent = signed(value);
    made.append(size);
    place.append(made, " ");
  }
}

function choose(label) {
  chosen = label;
  const name = answer.labels[label].name;
  for (const row of at("rows").rows) {
    row.toggleAttribute("aria-current", Number(row.dataset.label) === label);
  }
  at("neither").textContent = signed(answer.labels[label].neither);
  if (looksAt.pictures) {
    at("where").textContent = file ? `Where in the picture: ${name}` : "There is no picture.";
  }
  drawHeat();
  drawWords();
}

function show() {
  const rows = at("rows");
  rows.replaceChildren();
  const order = answer.labels.map((_, n) => n);
  order.sort((a, b) => answer.labels[b].probability - answer.labels[a].probability);
  for (const number of order) {
    const label = answer.labels[number];
    const row = rows.insertRow();
    row.dataset.label = number;
    row.className = label.answered ? "answered" : "";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label.name;
    button.addEventListener("click", () => choose(number));
    row.insertCell().append(button);
    cell(row, label.probability.toFixed(3), "n");
    if (looksAt.pictures) effect(row, label.picture);
    if (looksAt.captions) effect(row, label.caption);
  }
  at("found").hidden = false;
  if (answer.preview) at("picture").src = answer.preview;
  choose(order[0]);
}

// Takes away the former answer, and one that is on its way: it is of another question.
function forget() {
  asked += 1;
  answer = null;
  maps = [];
  at("found").hidden = true;
  if (looksAt.captions) at("words").replaceChildren();
  if (looksAt.pictures) at("where").textContent = unanswered;
  drawHeat();
}

async function ask(path, caption) {
  const query = new URLSearchParams({ caption });
  const reply = await fetch(`${path}?${query}`, { method: "POST", body: file || "" });
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error);
  return content;
}

function say(text, wrong) {
  at("state").textContent = text;
  at("state").className = wrong ? "wrong" : "";
}

async function run() {
  forget();
  const number = asked;
  const caption = looksAt.captions ? at("caption").value : "";
  if (!file && !caption.trim()) {
    const missing = looksAt.captions ? "a caption" : "a picture";
    say(looksAt.pictures && looksAt.captions ? "Give a picture or a caption." : `Give ${missing}.`);
    return;
  }
  say("Looking …");
  try {
    const found = await ask("/answer", caption);
    if (number !== asked) return;
    answer = found;
    show();
    if (looksAt.pictures && file) {
      say("Covering parts of the picture …");
      const heat = await ask("/heat", caption);
      if (number !== asked) return;
      maps = heat.maps;
      drawHeat();
    }
    say("Done.");
  } catch (error) {
    if (number === asked) say(error.message, true);
  }
}

function refuse(text) {
  file = null;
  at("stage").hidden = true;
  at("hint").hidden = false;
  say(text, true);
}

function take(files) {
  if (!files.length) return;
  forget();
  const most = Number(form.dataset.most);
  if (files[0].size > most) return refuse(`The picture has more than ${most / 2 ** 20} MB.`);
  // An empty file would be sent as no picture at all.
  if (!files[0].size) return refuse("The file is empty: choose another.");
  file = files[0];
  const reader = new FileReader();
  reader.addEventListener("error", () => refuse("The file cannot be read: choose another."));
  reader.addEventListener("load", () => {
    at("picture").src = reader.result;
    at("stage").hidden = false;
    at("hint").hidden = true;
    run();
  });
  reader.readAsDataURL(file);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
if (looksAt.pictures) {
  const drop = at("drop");
  const picture = at("picture");
  picture.addEventListener("load", () => {
    const ratio = picture.naturalWidth / picture.naturalHeight;
    at("stage").style.setProperty("--ratio", ratio);
  });
  at("file").addEventListener("change", (event) => take(event.target.files));
  for (const kind of ["dragover", "drop", "dragleave"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
}
