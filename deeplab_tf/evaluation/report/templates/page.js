"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const percent = (share) => (share == null ? "\u2013" : (100 * share).toFixed(1) + "%");
const find = (selector, within = document) => [...within.querySelectorAll(selector)];

// Sorting. What has no figure comes last in either direction.
function byKey(key, direction) {
  return (a, b) => {
    const [x, y] = [key(a), key(b)];
    const [noX, noY] = [x == null || x === "", y == null || y === ""];
    if (noX || noY) return noX - noY;
    const isText = typeof x === "string" && isNaN(x);
    return direction * (isText ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  };
}

// Marks a column as the one sorted by; returns 1 for ascending, -1 for descending.
function turn(head) {
  const isAscending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", isAscending ? "descending" : "ascending");
  return isAscending ? -1 : 1;
}

for (const button of find(".sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[head.cellIndex].dataset.key;
    body.append(...[...body.rows].sort(byKey(key, turn(head))));
  });
}

// The confusion matrix: what the cell under the pointer, or the arrow keys, says.
const matrix = document.getElementById("matrix");
const cursor = document.getElementById("cursor");
const numClasses = data.classes.length;
const place = { row: 0, column: 0 };

function pointAt(row, column) {
  Object.assign(place, { row, column });
  const cell = matrix.viewBox.baseVal.width / numClasses;
  cursor.setAttribute("x", column * cell);
  cursor.setAttribute("y", row * cell);
  cursor.setAttribute("visibility", "visible");
  find(".rows li").forEach((head, index) => head.classList.toggle("lit", index === row));
  find(".columns li").forEach((head, index) => head.classList.toggle("lit", index === column));
  const pixels = data.matrix[row][column];
  const labelled = data.matrix[row].reduce((sum, number) => sum + number, 0);
  const verdict = row === column ? "right" : `taken for ${data.classes[column]}`;
  document.getElementById("cell").textContent = labelled
    ? `${data.classes[row]}, ${verdict}: ${percent(pixels / labelled)} of its ` +
      `${labelled.toLocaleString("en")} pixels (${pixels.toLocaleString("en")})`
    : `${data.classes[row]} occurs in no label`;
}

function pointAtPointer(event) {
  const box = matrix.getBoundingClientRect();
  const cell = matrix.viewBox.baseVal.width / numClasses;
  const row = Math.floor((event.clientY - box.top) / cell);
  const column = Math.floor((event.clientX - box.left) / cell);
  if (Math.min(row, column) >= 0 && Math.max(row, column) < numClasses) pointAt(row, column);
}

matrix.addEventListener("pointermove", pointAtPointer);
matrix.addEventListener("click", pointAtPointer);
matrix.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  const [row, column] = [place.row + step[0], place.column + step[1]].map((index) =>
    Math.max(0, Math.min(numClasses - 1, index)),
  );
  pointAt(row, column);
  cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
});

// Images: those of one class, the lowest IoU of it first; or all.
const ROWS_AT_ONCE = 50;
const articles = find("article");
const table = document.getElementById("table");
const more = document.getElementById("more");
const choice = document.getElementById("class");
let numRows = ROWS_AT_ONCE;
let chosen = "";
let order = { column: "miou", direction: 1 };

const keys = {
  name: (image) => image.name,
  miou: (image) => image.miou,
  iou: (image) => image.ious[chosen],
  pixel_accuracy: (image) => image.pixel_accuracy,
  change: (image) => image.change,
};

function iouIn(article) {
  return article.querySelector(`li[data-class="${chosen}"]`)?.dataset.iou;
}

function showClass(index) {
  chosen = choice.value = String(index);
  const visible = articles.filter((article) => {
    article.hidden = chosen !== "" && iouIn(article) === undefined;
    return !article.hidden;
  });
  const sorted = chosen === "" ? articles : [...articles].sort(byKey(iouIn, 1));
  for (const group of find(".shown")) {
    const members = sorted.filter((article) => article.parentElement === group);
    group.append(...members);
    group.hidden = members.every((article) => article.hidden);
  }
  for (const button of find(".classes .class")) {
    button.classList.toggle("chosen", button.dataset.class === chosen);
  }
  const head = table.querySelector('[data-column="iou"]');
  head.hidden = chosen === "";
  const name = data.classes[chosen] ?? "";
  head.firstElementChild.textContent = `IoU of ${name}`;
  const column = chosen === "" ? "miou" : "iou";
  for (const other of head.parentElement.cells) {
    const isSorted = other.dataset.column === column;
    other.setAttribute("aria-sort", isSorted ? "ascending" : "none");
  }
  order = { column, direction: 1 };
  numRows = ROWS_AT_ONCE;
  const found = fillTable();
  document.getElementById("found").textContent =
    `${found.toLocaleString("en")} of ${data.images.length.toLocaleString("en")} in all, ` +
    `${visible.length} of ${articles.length} with their panels`;
}

function fillTable() {
  const found = data.images.filter((p) => chosen === "" || p.ious[chosen] !== undefined);
  found.sort(byKey(keys[order.column], order.direction));
  const columns = find("thead th", table).filter((head) => !head.hidden);
  const rows = found.slice(0, numRows).map((image) => {
    const row = document.createElement("tr");
    for (const { dataset } of columns) row.append(cellOf(image, dataset.column));
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
  const left = found.length - rows.length;
  more.hidden = left <= 0;
  more.textContent = `Show ${Math.min(left, ROWS_AT_ONCE)} more of ${left}`;
  return found.length;
}

function cellOf(image, column) {
  const cell = document.createElement(column === "name" ? "th" : "td");
  if (column === "name") {
    cell.scope = "row";
    const article = articles.find((candidate) => candidate.dataset.name === image.name);
    if (article) {
      const link = document.createElement("a");
      link.href = "#" + article.id;
      link.textContent = image.name;
      const thumbnail = document.createElement("img");
      thumbnail.src = article.querySelector("img").src;
      thumbnail.alt = "";
      link.addEventListener("click", () => article.hidden && showClass(""));
      const named = document.createElement("div");
      named.className = "named";
      named.append(thumbnail, link);
      cell.append(named);
    } else {
      cell.textContent = image.name;
    }
    return cell;
  }
  cell.className = "number";
  const value = keys[column](image);
  if (column !== "change" || value == null) {
    cell.textContent = percent(value);
    return cell;
  }
  const change = document.createElement("span");
  const points = Math.abs(100 * value).toFixed(1);
  const isSame = Number(points) === 0;
  change.className = isSame ? "same" : value > 0 ? "better" : "worse";
  change.textContent = isSame ? "0" : (value > 0 ? "+" : "\u2212") + points;
  cell.append(change);
  return cell;
}

choice.addEventListener("change", () => showClass(choice.value));
more.addEventListener("click", () => {
  numRows += ROWS_AT_ONCE;
  fillTable();
});
for (const button of find("thead button", table)) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    order = { column: head.dataset.column, direction: turn(head) };
    fillTable();
  });
}
for (const button of find(".class")) {
  button.addEventListener("click", () => {
    const isOn = button.dataset.class === chosen;
    showClass(isOn ? "" : button.dataset.class);
    if (!button.closest("#images")) document.getElementById("images").scrollIntoView();
  });
}

// An image in large, whose panels take each other's place.
const large = document.getElementById("large");
const views = large.querySelector(".choice");

function enlarge(figures, index) {
  const image = figures[index].querySelector("img");
  large.querySelector("img").src = image.src;
  large.querySelector("img").alt = image.alt;
  large.querySelector("p").textContent = figures[index].closest("article").dataset.name;
  const buttons = figures.map((figure, other) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = figure.querySelector("figcaption").textContent;
    button.setAttribute("aria-pressed", other === index);
    button.addEventListener("click", () => enlarge(figures, other));
    return button;
  });
  views.replaceChildren(...buttons);
  if (!large.open) large.showModal();
  buttons[index].focus();
}

for (const button of find(".panel")) {
  button.addEventListener("click", () => {
    const figures = find("figure", button.closest(".panels"));
    enlarge(figures, figures.indexOf(button.closest("figure")));
  });
}
large.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const buttons = find("button", views);
  const index = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
  buttons[(index + step + buttons.length) % buttons.length].click();
});
large.addEventListener("click", (event) => {
  if (event.target === large) large.close();
});

showClass("");
