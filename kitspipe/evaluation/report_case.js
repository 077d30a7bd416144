// A case's page: slices in three planes, drawn from the volume that volume.js holds.
"use strict";

(() => {
  const data = window.kitspipeVolume;
  const CLASSES = [
    { value: 1, name: "kidney" },
    { value: 2, name: "tumor" },
    { value: 3, name: "cyst" },
  ];
  // Rows, columns and the axis that is scrolled, as indices of (Z, Y, X); letters at the borders.
  const PLANES = {
    axial: { rows: 1, columns: 2, through: 0, flipped: false, letters: "RLAP" },
    coronal: { rows: 0, columns: 2, through: 1, flipped: true, letters: "RLSI" },
    sagittal: { rows: 0, columns: 1, through: 2, flipped: true, letters: "APSI" },
  };
  const style = getComputedStyle(document.documentElement);
  const colors = CLASSES.map(({ name }) => {
    const hex = style.getPropertyValue(`--${name}`).trim();
    return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
  });
  const state = {
    at: [...data.focus],
    fill: 0.3,
    masks: true,
    reference: true,
    cross: true,
    low: data.hu[0],
    high: data.hu[1],
  };
  let arrays = null;

  // ---- from text to arrays --------------------------------------------------------------------

  // The CT's slices stand side by side in one picture; its red channel is the gray value.
  async function unpackImage() {
    const picture = new Image();
    picture.src = data.image;
    await picture.decode();
    const [depth, height, width] = data.shape;
    const canvas = document.createElement("canvas");
    canvas.width = picture.width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const voxels = new Uint8Array(depth * height * width);
    for (let first = 0, top = 0; first < depth; first += data.columns, top += height) {
      context.drawImage(picture, 0, -top);
      const pixels = context.getImageData(0, 0, picture.width, height).data;
      for (let z = first; z < Math.min(first + data.columns, depth); z++) {
        const left = (z - first) * width;
        for (let y = 0; y < height; y++) {
          let from = (y * picture.width + left) * 4;
          let to = (z * height + y) * width;
          for (let x = 0; x < width; x++, from += 4) voxels[to++] = pixels[from];
        }
      }
    }
    return voxels;
  }

  async function unpackLabels(text) {
    if (text === null) return null;
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // ---- slices ---------------------------------------------------------------------------------

  function slice(array, plane) {
    const strides = [data.shape[1] * data.shape[2], data.shape[2], 1];
    const height = data.shape[plane.rows];
    const width = data.shape[plane.columns];
    const values = new Uint8Array(width * height);
    const base = state.at[plane.through] * strides[plane.through];
    for (let row = 0, to = 0; row < height; row++) {
      const source = plane.flipped ? height - 1 - row : row;
      let from = base + source * strides[plane.rows];
      for (let column = 0; column < width; column++, from += strides[plane.columns]) {
        values[to++] = array[from];
      }
    }
    return { values, width, height };
  }

  // What the screen shows for each byte, in the window that is chosen.
  function grays() {
    const table = new Uint8ClampedArray(256);
    const [low, high] = data.hu;
    for (let byte = 0; byte < 256; byte++) {
      const hu = low + ((high - low) * byte) / 255;
      table[byte] = (255 * (hu - state.low)) / (state.high - state.low);
    }
    return table;
  }

  function paint(context, image, labels) {
    const pixels = context.createImageData(image.width, image.height);
    const table = grays();
    for (let i = 0, to = 0; i < image.values.length; i++, to += 4) {
      const gray = table[image.values[i]];
      const label = labels === null ? 0 : labels.values[i];
      const fill = label > 0 ? state.fill : 0;
      const color = label > 0 ? colors[label - 1] : colors[0];
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[to + channel] = gray * (1 - fill) + color[channel] * fill;
      }
      pixels.data[to + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  }

  // The borders of a label between voxels, so that they are thin however large voxels are.
  function outline(labels, value, scaleX, scaleY) {
    const { values, width, height } = labels;
    const path = new Path2D();
    const inside = (row, column) =>
      row >= 0 && row < height && column >= 0 && column < width &&
      values[row * width + column] === value;
    for (let row = 0; row <= height; row++) {
      for (let column = 0; column <= width; column++) {
        const here = inside(row, column);
        if (here !== inside(row - 1, column)) {
          path.moveTo(column * scaleX, row * scaleY);
          path.lineTo((column + 1) * scaleX, row * scaleY);
        }
        if (here !== inside(row, column - 1)) {
          path.moveTo(column * scaleX, row * scaleY);
          path.lineTo(column * scaleX, (row + 1) * scaleY);
        }
      }
    }
    return path;
  }

  function draw(name) {
    const plane = PLANES[name];
    const figure = document.querySelector(`#${name}`);
    const canvas = figure.querySelector("canvas");
    const image = slice(arrays.image, plane);
    const labels = slice(arrays.labels, plane);
    const reference = arrays.reference === null ? null : slice(arrays.reference, plane);
    const dense = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * dense));
    const mmHigh = image.height * data.spacing[plane.rows];
    const mmWide = image.width * data.spacing[plane.columns];
    const height = Math.max(1, Math.round((width * mmHigh) / mmWide));
    canvas.width = width;
    canvas.height = height;
    const sheet = document.createElement("canvas");
    sheet.width = image.width;
    sheet.height = image.height;
    paint(sheet.getContext("2d"), image, state.masks ? labels : null);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, 0, 0, width, height);
    const scaleX = width / image.width;
    const scaleY = height / image.height;
    if (state.reference && reference !== null) {
      for (const { value } of CLASSES) {
        const path = outline(reference, value, scaleX, scaleY);
        context.strokeStyle = "rgb(0 0 0 / 70%)";
        context.lineWidth = 5 * dense;
        context.stroke(path);
        context.strokeStyle = "#fff";
        context.lineWidth = 3 * dense;
        context.stroke(path);
      }
    }
    if (state.masks) {
      for (const { value } of CLASSES) {
        context.strokeStyle = `rgb(${colors[value - 1].join(" ")})`;
        context.lineWidth = 1.5 * dense;
        context.stroke(outline(labels, value, scaleX, scaleY));
      }
    }
    if (state.cross) cross(context, plane, scaleX, scaleY);
    marks(context, plane, width / mmWide, dense);
    tell(name, figure, labels, reference);
  }

  function cross(context, plane, scaleX, scaleY) {
    const rows = data.shape[plane.rows];
    const row = plane.flipped ? rows - 1 - state.at[plane.rows] : state.at[plane.rows];
    const x = (state.at[plane.columns] + 0.5) * scaleX;
    const y = (row + 0.5) * scaleY;
    const { width, height } = context.canvas;
    const gap = width / 25;
    context.strokeStyle = "rgb(255 255 255 / 45%)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [fromX, fromY, toX, toY] of [
      [0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height],
    ]) {
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
    }
    context.stroke();
  }

  // Where left and right are, and 5 cm.
  function marks(context, plane, pixelsPerMm, dense) {
    const { width, height } = context.canvas;
    const [left, right, top, bottom] = plane.letters;
    const gap = 5 * dense;
    context.font = `600 ${12 * dense}px system-ui, sans-serif`;
    context.lineJoin = "round";
    const write = (text, x, y, align, baseline) => {
      context.textAlign = align;
      context.textBaseline = baseline;
      context.strokeStyle = "#000";
      context.lineWidth = 3 * dense;
      context.strokeText(text, x, y);
      context.fillStyle = "#fff";
      context.fillText(text, x, y);
    };
    write(left, gap, height / 2, "left", "middle");
    write(right, width - gap, height / 2, "right", "middle");
    write(top, width / 2, gap, "center", "top");
    write(bottom, width / 2, height - gap, "center", "bottom");
    const length = 50 * pixelsPerMm;
    for (const [color, thickness] of [["#000", 4 * dense], ["#fff", 2 * dense]]) {
      context.strokeStyle = color;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(2 * gap, height - 2 * gap);
      context.lineTo(2 * gap + length, height - 2 * gap);
      context.stroke();
    }
    write("5 cm", 2 * gap + length + gap, height - 2 * gap, "left", "middle");
  }

  // The same in words: which slice, and how much of each mask is in it.
  function tell(name, figure, labels, reference) {
    const plane = PLANES[name];
    const count = data.shape[plane.through];
    const number = state.at[plane.through] + 1;
    const pixelCm2 = (data.spacing[plane.rows] * data.spacing[plane.columns]) / 100;
    const areas = (slicing) =>
      CLASSES.map(({ value, name: word }) => {
        const pixels = slicing.values.reduce((sum, label) => sum + (label === value), 0);
        return pixels > 0 ? `${word} ${(pixels * pixelCm2).toFixed(1)} cm²` : "";
      }).filter(Boolean).join(", ") || "no mask";
    const truth = reference === null ? "" : `; reference: ${areas(reference)}`;
    const text = `${number} of ${count}: ${areas(labels)}${truth}`;
    figure.querySelector("output").textContent = text;
    figure.querySelector("canvas").setAttribute("aria-label", `${name} slice ${text}`);
    const slider = figure.querySelector("input");
    slider.max = count;
    slider.value = number;
    slider.setAttribute("aria-valuetext", text);
  }

  const drawAll = () => Object.keys(PLANES).forEach(draw);

  function go(axis, index) {
    const last = data.shape[axis] - 1;
    state.at[axis] = Math.min(last, Math.max(0, index));
    drawAll();
  }

  // ---- what one can do ------------------------------------------------------------------------

  function listen(name) {
    const plane = PLANES[name];
    const figure = document.querySelector(`#${name}`);
    const canvas = figure.querySelector("canvas");
    const step = (by) => go(plane.through, state.at[plane.through] + by);
    figure.querySelector("input").addEventListener("input", (event) => {
      go(plane.through, Number(event.target.value) - 1);
    });
    let wheeled = 0;
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      // Touchpads send many small steps.
      wheeled += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
      const whole = Math.trunc(wheeled);
      wheeled -= whole;
      if (whole !== 0) step(Math.sign(whole) * Math.min(3, Math.abs(whole)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const last = data.shape[plane.through] - 1;
      const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10,
        PageDown: -10, Home: -last, End: last }[event.key];
      if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      step(by);
    });
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = ((event.clientX - box.left) / box.width) * data.shape[plane.columns];
      const row = ((event.clientY - box.top) / box.height) * data.shape[plane.rows];
      const inside = (value, axis) =>
        Math.min(data.shape[axis] - 1, Math.max(0, Math.floor(value)));
      state.at[plane.columns] = inside(column, plane.columns);
      state.at[plane.rows] = plane.flipped
        ? data.shape[plane.rows] - 1 - inside(row, plane.rows)
        : inside(row, plane.rows);
      drawAll();
    };
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") point(event);
    });
  }

  const toggles = { masks: "#masks", reference: "#reference", cross: "#cross" };
  function listenToTools() {
    for (const [key, id] of Object.entries(toggles)) {
      document.querySelector(id)?.addEventListener("click", (event) => {
        state[key] = !state[key];
        event.currentTarget.setAttribute("aria-pressed", state[key]);
        drawAll();
      });
    }
    document.querySelector("#fill").addEventListener("input", (event) => {
      state.fill = Number(event.target.value) / 100;
      drawAll();
    });
    document.querySelector("#window").addEventListener("change", (event) => {
      [state.low, state.high] = event.target.value.split(" ").map(Number);
      drawAll();
    });
    for (const button of document.querySelectorAll("button[data-point]")) {
      button.disabled = false;
      button.addEventListener("click", () => {
        const place = button.dataset.point.split(" ").map(Number);
        state.at = place.map((index, axis) => Math.min(data.shape[axis] - 1, Math.max(0, index)));
        drawAll();
        document.querySelector("#slices").scrollIntoView({ block: "nearest" });
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target.matches('select, input:not([type="range"])')) return;
      const id = { m: "#masks", r: "#reference", c: "#cross", n: "#next", p: "#previous" }[event.key];
      document.querySelector(id ?? "#none")?.click();
    });
  }

  async function start() {
    try {
      arrays = {
        image: await unpackImage(),
        labels: await unpackLabels(data.labels),
        reference: await unpackLabels(data.reference),
      };
    } catch (error) {
      document.querySelector("#slices-message").textContent =
        `This browser can't scroll through the slices (${error.message}); the pictures stay.`;
      throw error;
    }
    for (const name of Object.keys(PLANES)) {
      const figure = document.querySelector(`#${name}`);
      figure.querySelector("img").hidden = true;
      for (const part of figure.querySelectorAll("canvas, input, output")) part.hidden = false;
      listen(name);
    }
    listenToTools();
    drawAll();
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) < 1) return;
      width = entry.contentRect.width;
      drawAll();
    }).observe(document.querySelector("#slices"));
    window.kitspipeArrays = arrays;
    document.dispatchEvent(new Event("kitspipe-ready"));
  }
  start();
})();
