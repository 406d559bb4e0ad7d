// What a reader can do on the page: sort tables, hide classes, enlarge images. Everything is there without it.
"use strict";
(() => {
  const all = (where, what) => [...where.querySelectorAll(what)];
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // --- Light or dark: the switch works by style alone, here it is remembered -----------------------------------------
  for (const choice of all(document, ".theme input")) {
    try {
      if (localStorage.getItem("spcnet-theme") === choice.value) choice.checked = true;
    } catch { /* a page from a file may not be allowed to remember */ }
    choice.addEventListener("change", () => {
      try { localStorage.setItem("spcnet-theme", choice.value); } catch { /* see above */ }
    });
  }

  // --- Sorting: each heading with data-sort becomes a button ---------------------------------------------------------
  for (const table of all(document, "table.sortable")) {
    const body = table.tBodies[0];
    const heads = all(table, "thead th[data-sort]");
    const value = (row, place) => row.cells[place].dataset.value ?? "";
    for (const head of heads) {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const place = Number(head.dataset.sort);
        const words = place === 0;
        const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : !words;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a, place), value(b, place)];
          if (x === "" || y === "") return (x === "") - (y === "");  // what has no figure stays below
          return sign * (words ? x.localeCompare(y) : Number(x) - Number(y));
        });
        body.append(...rows);
      });
    }
  }

  // --- Class maps: pixels are told apart by their colour, which is exact in a palette image --------------------------
  const legend = document.querySelector("ul[data-classes]");
  const hidden = new Set();
  let over = false;  // whether the photo shines through
  const maps = new Map();  // image → its canvas and the class of each pixel

  const codes = new Map();
  if (legend) {
    for (const entry of all(legend, "li[data-class]")) {
      const [r, g, b] = entry.dataset.color.split(",").map(Number);
      codes.set((r << 16) | (g << 8) | b, Number(entry.dataset.class));
    }
  }

  const read = (image) => {
    let map = maps.get(image);
    if (!map) {
      const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight, role: "img", "aria-label": image.alt, hidden: "" });
      canvas.style.aspectRatio = image.style.aspectRatio;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const data = context.getImageData(0, 0, canvas.width, canvas.height);
      const classes = new Int16Array(data.data.length / 4);
      for (let i = 0, j = 0; i < classes.length; i += 1, j += 4) {
        classes[i] = codes.get((data.data[j] << 16) | (data.data[j + 1] << 8) | data.data[j + 2]) ?? -1;
      }
      map = { canvas, data, classes };
      image.after(canvas);
      maps.set(image, map);
    }
    return map;
  };

  const paint = (image) => {
    const plain = hidden.size === 0 && !over;
    if (plain && !maps.has(image)) return;
    const { canvas, data, classes } = read(image);
    for (let i = 0, j = 3; i < classes.length; i += 1, j += 4) {
      data.data[j] = hidden.has(classes[i]) ? 0 : over ? 140 : 255;
    }
    canvas.getContext("2d").putImageData(data, 0, 0);
    canvas.hidden = plain;
    image.hidden = !plain;
    const photo = rowOf(image)[0];
    canvas.style.backgroundImage = over && photo ? `url(${photo.src})` : "";
    canvas.style.backgroundSize = "100% 100%";
  };

  const rowOf = (image) => all(document, `main img[data-row="${image.dataset.row}"]`);

  const paintAll = () => {
    for (const image of all(document, "#images img.map")) {
      if (image.complete && image.naturalWidth) paint(image);
      else image.decode().then(() => paint(image), () => {});
    }
    for (const button of all(document, "ul[data-classes] button")) {
      button.setAttribute("aria-pressed", String(!hidden.has(Number(button.parentElement.dataset.class))));
    }
    if (box && box.open) show();
  };

  if (legend) {
    for (const entry of all(legend, "li[data-class]")) {
      const number = Number(entry.dataset.class);
      const button = make("button", { type: "button", "aria-pressed": "true" });
      button.append(...entry.childNodes);
      entry.append(button);
      button.addEventListener("click", () => {
        if (!hidden.delete(number)) hidden.add(number);
        paintAll();
      });
    }
    document.getElementById("how").hidden = false;
    const tools = document.querySelector(".toggles .tools");
    const tool = (words, act, attributes = {}) => {
      const button = make("button", { type: "button", class: "tool", ...attributes }, words);
      button.addEventListener("click", () => { act(button); paintAll(); });
      tools.append(button);
    };
    tool("all classes", () => hidden.clear());
    tool("none", () => { for (const number of codes.values()) hidden.add(number); });
    tool("over the photo", (button) => { over = !over; button.setAttribute("aria-pressed", String(over)); }, { "aria-pressed": "false" });
  }

  // --- Enlarging: arrows go to the other methods and to the other images ---------------------------------------------
  const images = all(document, "main img");
  images.forEach((image, number) => {  // pictures of other sections stand each by itself
    if (image.dataset.row === undefined) Object.assign(image.dataset, { row: `own${number}`, column: "0", where: image.alt, words: "" });
  });
  let box, heading, stage, together;
  let current = images[0];
  let many = false;

  const shape = (image) => image.dataset.shape || image.naturalWidth / image.naturalHeight || 2;

  const show = () => {
    const row = rowOf(current);
    const shown = many ? row : [current];
    const { where, words } = current.dataset;
    heading.textContent = many || !words ? where : `${where}: ${words}`;
    stage.className = `stage ${many ? "many" : "one"}`;
    stage.style.setProperty("--shape", shape(current));
    stage.replaceChildren(...shown.map((image) => {
      let copy;
      if (image.classList.contains("map") && (hidden.size || over)) {
        const map = read(image);
        paint(image);
        copy = make("canvas", { width: map.canvas.width, height: map.canvas.height, role: "img", "aria-label": image.alt });
        copy.getContext("2d").drawImage(map.canvas, 0, 0);
        copy.style.backgroundImage = map.canvas.style.backgroundImage;
      } else {
        copy = make("img", { src: image.src, alt: image.alt, class: image.className });
      }
      copy.style.aspectRatio = shape(image);
      const figure = make("figure", {}, copy);
      if (many) {
        figure.append(make("figcaption", {}, image.dataset.words));
        copy.style.cursor = "zoom-in";
        copy.addEventListener("click", () => { current = image; many = false; show(); });
      }
      return figure;
    }));
    together.setAttribute("aria-pressed", String(many));
  };

  const step = (across, down) => {
    if (many && across) return step(0, across);
    if (across) {
      current = images[(images.indexOf(current) + across + images.length) % images.length];
    } else {
      const rows = [...new Set(images.map((image) => image.dataset.row))];
      const next = rows[(rows.indexOf(current.dataset.row) + down + rows.length) % rows.length];
      const there = images.filter((image) => image.dataset.row === next);
      current = there.find((image) => image.dataset.column === current.dataset.column) ?? there[there.length - 1];
    }
    show();
  };

  if (images.length) {
    heading = make("h2", { id: "zoom-h" });
    stage = make("div", { class: "stage one" });
    const bar = make("div", { class: "bar" }, heading);
    const button = (text, label, act) => {
      const made = make("button", { type: "button", "aria-label": label, title: label }, text);
      made.addEventListener("click", act);
      bar.append(made);
      return made;
    };
    together = button("side by side", "All of this image side by side (S)", () => { many = !many; show(); });
    button("←", "Before (left arrow)", () => step(-1, 0));
    button("→", "Next (right arrow)", () => step(1, 0));
    button("↑", "Image before (up arrow)", () => step(0, -1));
    button("↓", "Next image (down arrow)", () => step(0, 1));
    button("close", "Close (Esc)", () => box.close());
    box = make("dialog", { "aria-labelledby": "zoom-h" }, bar, stage);
    document.body.append(box);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (moves[event.key]) step(...moves[event.key]);
      else if (event.key === "s" || event.key === "S") { many = !many; show(); }
      else return;
      event.preventDefault();
    });
    box.addEventListener("close", () => {
      stage.replaceChildren();
      current.closest("button").focus();
    });
    for (const image of images) {
      const opener = make("button", { type: "button", class: "zoom", "aria-label": `Enlarge: ${image.alt}` });
      image.replaceWith(opener);
      opener.append(image);
      opener.addEventListener("click", () => { current = image; many = false; box.showModal(); show(); });
    }
  }
})();
