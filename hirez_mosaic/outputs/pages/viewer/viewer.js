// Shows the mosaic that page.js describes. Nothing is loaded that is not looked at; and all of it by <script> and <img>, for a page that is
// opened by double click may not fetch. Blocks of data are scripts that call hirezMosaicBlock(name, content).
"use strict";

const page = window.hirezMosaicPage;
const cells = page.cells; // null where nothing is known but the picture
const [WIDTH, HEIGHT] = page.size;
const LIT = 65536; // places that light up at once, at most
const KEPT = 400; // blocks in memory, at most
const FOUND = 50; // names that a search shows, at most
const find = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

// Blocks

const blocks = new Map();
const arriving = new Map();

window.hirezMosaicBlock = (name, content) => arriving.get(name)?.(content);

function block(name) {
  let wanted = blocks.get(name);
  if (!wanted) {
    wanted = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const over = (then) => (value) => {
        arriving.delete(name);
        script.remove();
        then(value);
      };
      arriving.set(name, over(resolve));
      script.onerror = over(() => {
        blocks.delete(name);
        reject(new Error(`${name} is missing`));
      });
      script.src = `${name}.js`;
      document.head.append(script);
    });
  }
  blocks.delete(name);
  blocks.set(name, wanted); // the last one asked for is the last to go
  if (blocks.size > KEPT) blocks.delete(blocks.keys().next().value);
  return wanted;
}

const numbersIn = new WeakMap();

async function numbers(name) {
  const content = await block(name);
  const key = blocks.get(name) ?? {};
  if (!numbersIn.has(key)) {
    numbersIn.set(key, new Uint32Array(Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)).buffer));
  }
  return numbersIn.get(key);
}

// What lies where

async function choiceAt(column, row) {
  const side = cells.index;
  const across = Math.min(side, cells.columns - Math.floor(column / side) * side);
  const choices = await numbers(`index/${Math.floor(row / side)}/${Math.floor(column / side)}`);
  const choice = choices[(row % side) * across + (column % side)];
  return { template: Math.floor(choice / cells.poses.length), pose: cells.poses[choice % cells.poses.length] };
}

async function template(number) {
  const here = await block(`names/${Math.floor(number / cells.names)}`);
  const at = number % cells.names;
  return { number, name: here.names ? here.names[at] : null, first: here.first[at], uses: here.first[at + 1] - here.first[at] };
}

async function useOf(known, which) {
  const at = known.first + which;
  const place = (await numbers(`uses/${Math.floor(at / cells.uses)}`))[at % cells.uses];
  return [place % cells.columns, Math.floor(place / cells.columns)];
}

async function placesOf(known) {
  const from = Math.floor(known.first / cells.uses);
  const to = Math.floor((known.first + known.uses - 1) / cells.uses);
  const most = Math.ceil(LIT / cells.uses) + 1;
  const step = Math.max(1, Math.ceil((to - from + 1) / most)); // of very many places a share, from all over the mosaic
  const parts = [];
  for (let part = from; part <= to; part += step) parts.push(part);
  const read = await Promise.all(parts.map(async (part) => {
    const start = part * cells.uses;
    return (await numbers(`uses/${part}`)).subarray(Math.max(0, known.first - start), known.first + known.uses - start);
  }));
  return read;
}

const picture = (number) => `templates/${Math.floor(number / 1000)}/${number}.jpg`;

// The picture

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

function tileSource(levels, folder) {
  const source = new OpenSeadragon.TileSource({
    width: WIDTH, height: HEIGHT, tileWidth: 512, tileHeight: 512, tileOverlap: 0, minLevel: 0, maxLevel: levels.length - 1,
  });
  const side = (level, axis) => levels[level].tile[axis] * levels[level].step[axis]; // of a tile, px of the mosaic
  return Object.assign(source, {
    getLevelScale: (level) => 1 / Math.sqrt(levels[level].step[0] * levels[level].step[1]),
    getTileWidth: (level) => levels[level].tile[0],
    getTileHeight: (level) => levels[level].tile[1],
    getNumTiles: (level) => new OpenSeadragon.Point(...[0, 1].map((axis) => Math.ceil(levels[level].size[axis] / levels[level].tile[axis]))),
    getTileAtPoint(level, point) {
      const most = this.getNumTiles(level);
      const at = (value, axis, end) => Math.max(0, Math.min(end - 1, Math.floor((value * WIDTH) / side(level, axis))));
      return new OpenSeadragon.Point(at(point.x, 0, most.x), at(point.y, 1, most.y));
    },
    getTileBounds(level, x, y, inTile) {
      const { size, tile } = levels[level];
      if (inTile) return new OpenSeadragon.Rect(0, 0, Math.min(tile[0], size[0] - x * tile[0]), Math.min(tile[1], size[1] - y * tile[1]));
      const [left, top] = [x * side(level, 0), y * side(level, 1)];
      const right = Math.min(left + side(level, 0), WIDTH);
      const bottom = Math.min(top + side(level, 1), HEIGHT);
      return new OpenSeadragon.Rect(left / WIDTH, top / WIDTH, (right - left) / WIDTH, (bottom - top) / WIDTH);
    },
    getTileUrl: (level, x, y) => `${folder}/${levels[level].size.join("x")}/${y}/${x}.jpg`,
  });
}

const viewer = OpenSeadragon({
  element: find("picture"),
  tileSources: page.dzi ? new OpenSeadragon.DziTileSource(page.dzi) : tileSource(page.levels, "tiles"),
  drawer: "canvas", // WebGL may not read the pictures of a page that was opened by double click
  showNavigationControl: false,
  tabIndex: -1,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, flickEnabled: !still },
  animationTime: still ? 0 : 0.9,
  springStiffness: 9,
  visibilityRatio: 0.4,
  minZoomImageRatio: 0.8,
  maxZoomPixelRatio: Math.max(4, cells ? 320 / cells.tile[0] : 4),
  zoomPerScroll: 1.3,
  imageLoaderLimit: 6,
  maxImageCacheCount: 256,
  placeholderFillStyle: null,
});
viewer.innerTracker.keyHandler = null; // the keys are ours
viewer.innerTracker.keyDownHandler = null;
const view = viewer.viewport;

const cellAcross = cells ? 1 / cells.columns : 1; // in OpenSeadragon's units, of which the mosaic is 1 wide
const cellDown = cells ? HEIGHT / WIDTH / cells.rows : 1;
const middleOf = (column, row) => new OpenSeadragon.Point((column + 0.5) * cellAcross, (row + 0.5) * cellDown);

function cellAt(x, y) {
  const point = view.pointFromPixel(new OpenSeadragon.Point(x, y), true);
  const [column, row] = [Math.floor(point.x / cellAcross), Math.floor(point.y / cellDown)];
  return column >= 0 && row >= 0 && column < cells.columns && row < cells.rows ? [column, row] : null;
}

const inside = ([column, row]) => [Math.max(0, Math.min(cells.columns - 1, column)), Math.max(0, Math.min(cells.rows - 1, row))];
const closeUp = () => Math.max(view.getZoom(), Math.min(view.getMaxZoom(), cells.columns / (innerWidth / 72))); // a cell of 72 px

function goTo([column, row], zoom, at_once = still) {
  view.zoomTo(zoom, null, at_once);
  view.panTo(middleOf(column, row), at_once);
}

// The cell that is looked at

let shown = null; // { cell, pose, known, places, kept, which }
let asked = 1; // how often something was to be shown or let go of
let keeping = 0; // the last time of these that it was to be kept

async function show(cell, { keep = false, which = null } = {}) {
  const turn = ++asked;
  if (keep) keeping = turn;
  const [column, row] = cell;
  try {
    const { template: number, pose } = await choiceAt(column, row);
    const known = await template(number);
    if (turn !== asked) return;
    const same = shown?.known.number === number;
    shown = { cell, pose, known, kept: keep, places: same ? shown.places : [], which: which ?? (same && keep ? shown.which : null) };
    describe();
    draw();
    if (!same || !shown.places.length) {
      const places = await placesOf(known);
      if (turn !== asked && shown?.known.number !== number) return;
      shown.places = places;
    }
    const lit = shown.places.reduce((sum, part) => sum + part.length, 0);
    if (lit < known.uses) find("uses").textContent = `Stands in ${count(known.uses)} places, of which ${count(lit)} light up`;
    if (keep && shown.which === null) shown.which = rank(cell);
    draw();
  } catch (error) {
    if (turn === asked) find("told").textContent = `This cell cannot be shown: ${error.message}.`;
  }
}

function rank([column, row]) { // which of its template's places a cell is, where all are known
  const wanted = row * cells.columns + column;
  let before = 0;
  for (const part of shown.places) {
    const at = part.indexOf(wanted);
    if (at >= 0) return before + at;
    before += part.length;
  }
  return 0;
}

const titled = (known) => (known.name === null ? `Picture ${count(known.number + 1)}` : known.name);
const posed = ([mirrored, turns]) => [mirrored ? "mirrored" : "", turns ? `turned ${90 * turns}° left` : ""].filter(Boolean).join(", ");

function describe() {
  const { cell, pose, known, kept } = shown;
  const [folder, name] = [titled(known).replace(/[^/]*$/, ""), titled(known).replace(/^.*\//, "")];
  find("card").hidden = false;
  find("card").classList.toggle("kept", kept);
  const image = find("template");
  if (image.dataset.number !== String(known.number)) {
    image.src = picture(known.number);
    image.dataset.number = known.number;
  }
  image.alt = titled(known);
  find("name").replaceChildren(name);
  if (folder) find("name").append(Object.assign(document.createElement("small"), { textContent: folder }));
  find("name").title = titled(known);
  find("uses").textContent = known.uses === 1 ? "Stands here alone" : `Stands in ${count(known.uses)} places`;
  find("place").textContent = `Column ${count(cell[0])}, row ${count(cell[1])}${posed(pose) ? `, ${posed(pose)}` : ""}`;
  find("before").disabled = find("next").disabled = known.uses < 2;
  tell(`${titled(known)}. ${find("uses").textContent}. ${find("place").textContent}.`);
}

let telling;
function tell(words) { // once the pointer rests, for a voice cannot keep up with it
  clearTimeout(telling);
  telling = setTimeout(() => { find("told").textContent = words; }, 250);
}

function letGo() {
  asked++;
  shown = null;
  find("card").hidden = true;
  draw();
  remember();
}

async function walk(by) {
  if (!shown) return;
  const { known, which } = shown;
  const to = ((which ?? rank(shown.cell)) + by + known.uses) % known.uses;
  const cell = await useOf(known, to);
  goTo(cell, closeUp());
  await show(cell, { keep: true, which: to });
  remember();
}

// Lights: an outline of the cell that is looked at, and of every place its template stands at

const lights = find("lights");
const pen = lights.getContext("2d");
const DIM = "rgb(0 0 0 / .55)";
const LIGHT = "#ffb02e";
const OUTLINED = 4000; // places that get an outline of their own, at most; more are tinted

function draw() {
  const [width, height, ratio] = [lights.clientWidth, lights.clientHeight, devicePixelRatio];
  if (lights.width !== Math.round(width * ratio) || lights.height !== Math.round(height * ratio)) {
    [lights.width, lights.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!shown || !viewer.world.getItemCount()) return;
  const [from, to] = [[0, 0], [1, 1]].map(([x, y]) => view.pixelFromPoint(new OpenSeadragon.Point(x, y), true));
  const [across, down] = [(to.x - from.x) * cellAcross, (to.y - from.y) * cellDown];
  const [wide, high] = [Math.max(across, 5), Math.max(down, 5)]; // never too small to be seen
  const corner = (column, row) => [from.x + (column + 0.5) * across - wide / 2, from.y + (row + 0.5) * down - high / 2];
  if (shown.kept) {
    pen.fillStyle = DIM;
    const [left, top] = [Math.max(0, from.x), Math.max(0, from.y)];
    pen.fillRect(left, top, Math.min(width, to.x) - left, Math.min(height, from.y + down * cells.rows) - top);
  }
  const seen = [];
  for (const part of shown.places) {
    for (const place of part) {
      const [x, y] = corner(place % cells.columns, Math.floor(place / cells.columns));
      if (x > -wide && y > -high && x < width && y < height) seen.push(x, y);
    }
  }
  if (across < 5) dots(seen, width, height);
  else boxes(seen, wide, high);
  const [x, y] = corner(...shown.cell);
  for (const [line, style] of [[6, "rgb(0 0 0 / .7)"], [3, "#fff"]]) {
    pen.lineWidth = line;
    pen.strokeStyle = style;
    pen.strokeRect(x, y, wide, high);
  }
}

function boxes(seen, wide, high) {
  if (shown.kept) for (let at = 0; at < seen.length; at += 2) pen.clearRect(seen[at], seen[at + 1], wide, high);
  if (seen.length > 2 * OUTLINED) {
    pen.fillStyle = "rgb(255 176 46 / .4)";
    for (let at = 0; at < seen.length; at += 2) pen.fillRect(seen[at], seen[at + 1], wide, high);
    return;
  }
  for (const [line, style] of [[4, "rgb(0 0 0 / .6)"], [2, LIGHT]]) {
    pen.lineWidth = line;
    pen.strokeStyle = style;
    pen.beginPath();
    for (let at = 0; at < seen.length; at += 2) pen.rect(seen[at], seen[at + 1], wide, high);
    pen.stroke();
  }
}

const sheet = document.createElement("canvas");

function dots(seen, width, height) { // px by px: of cells this small there may be very many
  [sheet.width, sheet.height] = [width, height];
  const image = new ImageData(width, height);
  const px = new Uint32Array(image.data.buffer);
  for (let at = 0; at < seen.length; at += 2) {
    const [left, top] = [Math.max(0, Math.round(seen[at])), Math.max(0, Math.round(seen[at + 1]))];
    for (let y = top; y < Math.min(height, top + 5); y++) px.fill(0xff2eb0ff, y * width + left, y * width + Math.min(width, left + 5));
  }
  sheet.getContext("2d").putImageData(image, 0, 0);
  pen.drawImage(sheet, 0, 0);
}

viewer.addHandler("update-viewport", draw);
viewer.addHandler("resize", draw);

// Links: #cell=120,44 is column 120, row 44, which is kept; with a point, as in #cell=120.5,44.5, it is only the middle of the view.
// &zoom=8 makes the mosaic 8 times as wide as the window.

const WRITTEN = /^#cell=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)(?:&zoom=(\d+(?:\.\d+)?))?$/;
const linkTo = (column, row) => `#cell=${column},${row}&zoom=${+view.getZoom().toPrecision(4)}`;

function remember() {
  if (!cells || !viewer.world.getItemCount()) return;
  const middle = view.getCenter();
  const place = (value, most) => Math.max(0, Math.min(most, value)).toFixed(2);
  const here = shown?.kept
    ? linkTo(...shown.cell)
    : linkTo(place(middle.x / cellAcross, cells.columns), place(middle.y / cellDown, cells.rows));
  history.replaceState(null, "", here);
}

async function follow(at_once = true) {
  const [all, column, row, zoom] = WRITTEN.exec(location.hash) ?? [];
  if (!all || !cells) return false;
  const width = zoom ? Math.min(Math.max(Number(zoom), view.getMinZoom()), view.getMaxZoom()) : closeUp();
  if (`${column}${row}`.includes(".")) {
    view.zoomTo(width, null, at_once);
    view.panTo(new OpenSeadragon.Point(column * cellAcross, row * cellDown), at_once);
  } else {
    const cell = inside([Number(column), Number(row)]);
    goTo(cell, width, at_once);
    await show(cell, { keep: true });
  }
  return true;
}

// Pointer

let hovering = 0;

function hover(event) {
  if (event.pointerType === "touch" || event.buttons) return;
  cancelAnimationFrame(hovering);
  hovering = requestAnimationFrame(() => {
    if (shown?.kept || keeping === asked) return;
    const cell = cellAt(event.clientX, event.clientY);
    if (!cell) {
      if (shown) letGo();
    } else if (!shown || shown.cell[0] !== cell[0] || shown.cell[1] !== cell[1]) {
      show(cell);
    }
  });
}

async function press(event) {
  if (!event.quick) return;
  find("stage").focus({ preventScroll: true });
  const cell = cellAt(event.position.x, event.position.y);
  if (!cell) return letGo();
  await show(cell, { keep: true });
  remember();
}

// Keys

async function step(across, down) {
  const middle = view.getCenter();
  const from = shown?.cell ?? [Math.floor(middle.x / cellAcross) - across, Math.floor(middle.y / cellDown) - down];
  const cell = inside([from[0] + across, from[1] + down]);
  await show(cell, { keep: shown?.kept ?? false });
  const at = view.pixelFromPoint(middleOf(...cell));
  if (view.getZoom() * cellAcross * innerWidth < 12) goTo(cell, closeUp()); // too small to tell one from the next
  else if (at.x < 60 || at.y < 60 || at.x > innerWidth - 60 || at.y > innerHeight - 60) view.panTo(middleOf(...cell), still);
}

const zoomBy = (factor) => {
  view.zoomBy(factor, shown ? middleOf(...shown.cell) : null, still);
  view.applyConstraints(still);
};

const KEYS = {
  "+": () => zoomBy(1.6),
  "=": () => zoomBy(1.6),
  "-": () => zoomBy(1 / 1.6),
  "0": () => view.goHome(still),
  Home: () => view.goHome(still),
  f: fill,
  "?": () => find("about").showModal(),
};
const CELL_KEYS = {
  ArrowLeft: (far) => step(-far, 0),
  ArrowRight: (far) => step(far, 0),
  ArrowUp: (far) => step(0, -far),
  ArrowDown: (far) => step(0, far),
  Enter: () => shown && show(shown.cell, { keep: true }).then(remember),
  Escape: letGo,
  n: () => walk(1),
  p: () => walk(-1),
  "/": () => find("words").focus(),
};

const withKeys = (yes) => () => document.body.classList.toggle("keys", yes); // where the focus is, is shown to those alone who use keys
addEventListener("keydown", withKeys(true), true);
addEventListener("pointerdown", withKeys(false), true);
addEventListener("keydown", (event) => {
  const typing = event.target === find("words") || find("about").open;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const onControl = event.target.closest("button, input, a") !== null;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = KEYS[key] ?? (cells && CELL_KEYS[key]);
  if (!action || (onControl && /^(Arrow|Enter|Home)/.test(key))) return;
  event.preventDefault();
  action(event.shiftKey ? 10 : 1);
});

// Search: a name of three letters or more is looked for where its threes of letters occur

const threes = (word) => Array.from({ length: Math.max(0, word.length - 2) }, (_, at) => word.slice(at, at + 3));
const drawer = (three) => [...three].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 256, 0);

async function candidates(words) {
  const all = Math.ceil(cells.templates / cells.names);
  let places = null;
  for (const three of new Set(words.flatMap((word) => threes([...word]).map((letters) => letters.join(""))))) {
    const here = new Set((await block(`search/${drawer(three)}`))[three] ?? []);
    places = places === null ? here : new Set([...places].filter((place) => here.has(place)));
  }
  return places === null ? Array.from({ length: all }, (_, number) => number) : [...places].sort((one, other) => one - other);
}

let searching = 0;

async function search(text) {
  const turn = ++searching;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return offer([], words);
  const found = [];
  for (const place of await candidates(words)) {
    const { names } = await block(`names/${place}`);
    if (turn !== searching) return null;
    names.forEach((name, at) => {
      const plain = name.toLowerCase();
      if (found.length < FOUND && words.every((word) => plain.includes(word))) found.push(place * cells.names + at);
    });
    if (found.length >= FOUND) break;
  }
  const known = await Promise.all(found.map(template));
  return turn === searching ? offer(known, words) : null;
}

function marked(name, words) {
  const line = document.createElement("span");
  line.className = "of";
  const at = words.map((word) => name.toLowerCase().lastIndexOf(word)).filter((place) => place >= 0);
  const start = at.length ? at[0] : name.length;
  const end = start + (at.length ? words[0].length : 0);
  const from = Math.max(0, name.length > 30 ? Math.min(start - 8, name.lastIndexOf("/") + 1) : 0);
  line.append(from ? "…" : "", name.slice(from, start), Object.assign(document.createElement("mark"), { textContent: name.slice(start, end) }), name.slice(end));
  line.title = name;
  return line;
}

function offer(known, words) {
  const list = find("found");
  list.replaceChildren(...known.map((one, at) => {
    const entry = Object.assign(document.createElement("li"), { id: `found-${at}`, role: "option" });
    entry.setAttribute("role", "option");
    entry.setAttribute("aria-selected", "false");
    entry.dataset.number = one.number;
    const image = Object.assign(document.createElement("img"), { src: picture(one.number), alt: "", loading: "lazy" });
    const times = Object.assign(document.createElement("span"), { className: "times", textContent: `${count(one.uses)} ×` });
    entry.append(image, marked(one.name, words), times);
    entry.addEventListener("click", () => take(one.number));
    return entry;
  }));
  if (!known.length && words.length) {
    list.append(Object.assign(document.createElement("li"), { className: "none", textContent: "No picture has that in its name." }));
    list.lastChild.setAttribute("role", "option");
    list.lastChild.setAttribute("aria-disabled", "true");
  }
  list.hidden = !words.length;
  find("words").setAttribute("aria-expanded", String(!list.hidden));
  find("words").removeAttribute("aria-activedescendant");
  if (words.length) tell(known.length === FOUND ? `${FOUND} pictures or more` : `${known.length} pictures`);
}

async function take(number) {
  find("words").value = "";
  offer([], []);
  find("stage").focus({ preventScroll: true });
  const known = await template(number);
  const cell = await useOf(known, 0);
  goTo(cell, closeUp());
  await show(cell, { keep: true, which: 0 });
  remember();
}

function choose(by) {
  const entries = [...find("found").querySelectorAll("li[data-number]")];
  const now = entries.findIndex((entry) => entry.getAttribute("aria-selected") === "true");
  const next = entries[(now + by + (now < 0 && by < 0 ? 1 : 0) + entries.length) % entries.length];
  entries[now]?.setAttribute("aria-selected", "false");
  next?.setAttribute("aria-selected", "true");
  next?.scrollIntoView({ block: "nearest" });
  if (next) find("words").setAttribute("aria-activedescendant", next.id);
}

function searchKey(event) {
  const chosen = find("found").querySelector('li[aria-selected="true"], li[data-number]');
  if (event.key === "ArrowDown" || event.key === "ArrowUp") choose(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === "Enter" && !find("found").hidden) {
    const selected = find("found").querySelector('li[aria-selected="true"]') ?? chosen;
    if (selected) take(Number(selected.dataset.number));
  } else if (event.key === "Escape") {
    event.target.value = "";
    offer([], []);
    find("stage").focus({ preventScroll: true });
  } else return;
  event.preventDefault();
}

// Source

let source = null;

function fade(share) {
  if (source === null && share > 0) {
    source = new Promise((resolve) => {
      viewer.addTiledImage({
        tileSource: tileSource(page.source, "source"), x: 0, y: 0, width: 1, opacity: 0, success: ({ item }) => resolve(item),
      });
    });
  }
  source?.then((item) => item.setOpacity(Number(find("source").value) / 100));
  find("source").setAttribute("aria-valuetext", `${share} % source`);
}

// The rest

function fill() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}

async function copy() {
  const link = new URL(linkTo(...shown.cell), location.href).href;
  const label = find("link").querySelector("span");
  try {
    await navigator.clipboard.writeText(link);
    label.textContent = "Copied";
  } catch {
    history.replaceState(null, "", linkTo(...shown.cell));
    label.textContent = "It is in the address bar";
  }
  find("told").textContent = label.textContent;
  setTimeout(() => { label.textContent = "Copy link"; }, 1800);
}

function describePage() {
  document.title = page.title;
  find("title").textContent = find("about-title").textContent = page.title;
  find("stage").setAttribute("aria-label", `Mosaic ${page.title}`);
  find("osd").textContent = `OpenSeadragon ${OpenSeadragon.version.versionStr}`;
  const figures = { Size: `${count(WIDTH)} × ${count(HEIGHT)} px` };
  if (cells) {
    figures.Cells = `${count(cells.columns)} × ${count(cells.rows)} = ${count(cells.columns * cells.rows)}`;
    figures.Pictures = `${count(cells.templates)}, in ${count(cells.tile[0])} × ${count(cells.tile[1])} px`;
  }
  find("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const line = document.createElement("div");
    line.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
    return line;
  }));
}

find("closer").onclick = () => zoomBy(1.6);
find("farther").onclick = () => zoomBy(1 / 1.6);
find("whole").onclick = () => view.goHome(still);
find("fill").onclick = fill;
find("fill").hidden = !document.fullscreenEnabled;
find("tell").onclick = () => find("about").showModal();
find("about").addEventListener("click", (event) => event.target === find("about") && find("about").close());
describePage();
if (page.source) {
  find("fade").hidden = false;
  find("source").oninput = (event) => fade(Number(event.target.value));
}
if (cells) {
  find("stage").addEventListener("pointermove", hover);
  find("stage").addEventListener("pointerleave", () => shown && !shown.kept && letGo());
  viewer.addHandler("canvas-click", press);
  viewer.addHandler("animation-finish", remember);
  viewer.addHandler("open", () => follow());
  addEventListener("hashchange", () => follow(still));
  find("close").onclick = letGo;
  find("next").onclick = () => walk(1);
  find("before").onclick = () => walk(-1);
  find("link").onclick = copy;
  find("search").hidden = !cells.named;
  let typed;
  find("words").addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => search(event.target.value), 120);
  });
  find("words").addEventListener("keydown", searchKey);
}
window.hirezMosaicViewer = viewer;
