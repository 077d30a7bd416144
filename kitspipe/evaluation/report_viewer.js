// The volume viewer of a case's page: NiiVue, loaded when one comes near it.
"use strict";

(() => {
  const section = document.querySelector("#viewer");
  const message = section.querySelector("#viewer-message");
  const data = window.kitspipeVolume;
  const hex = (name) => {
    const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    return [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
  };

  // A NIfTI-1 file in memory: bytes, voxels X first. Source: nifti1.h.
  function nifti(voxels, slope, intercept) {
    const [z, y, x] = data.shape;
    const buffer = new ArrayBuffer(352 + voxels.length);
    const header = new DataView(buffer);
    header.setInt32(0, 348, true);
    [3, x, y, z, 1, 1, 1, 1].forEach((size, i) => header.setInt16(40 + 2 * i, size, true));
    header.setInt16(70, 2, true);
    header.setInt16(72, 8, true);
    const [mmZ, mmY, mmX] = data.spacing;
    [1, mmX, mmY, mmZ, 1, 1, 1, 1].forEach((mm, i) => header.setFloat32(76 + 4 * i, mm, true));
    header.setFloat32(108, 352, true);
    header.setFloat32(112, slope, true);
    header.setFloat32(116, intercept, true);
    header.setUint8(123, 2);
    header.setInt16(254, 1, true);
    data.affine.slice(0, 3).flat().forEach((value, i) => {
      header.setFloat32(280 + 4 * i, value, true);
    });
    [0x6e, 0x2b, 0x31, 0].forEach((byte, i) => header.setUint8(344 + i, byte));
    new Uint8Array(buffer, 352).set(voxels);
    return buffer;
  }

  function script(source) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = source;
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${source} is missing`));
      document.head.append(element);
    });
  }

  async function open(arrays) {
    message.textContent = "Loading the viewer …";
    const canvas = section.querySelector("canvas");
    if (!canvas.getContext("webgl2")) throw new Error("WebGL 2 is not available");
    if (!window.niivue) await script(section.dataset.niivue);
    const { Niivue, NVImage, SLICE_TYPE } = window.niivue;
    const viewer = new Niivue({
      isRadiologicalConvention: true, backColor: [0, 0, 0, 1], show3Dcrosshair: true,
      crosshairWidth: 0.5, textHeight: 0.035, dragAndDropEnabled: false, logLevel: "error",
      isOrientCube: true, multiplanarShowRender: 1,
    });
    await viewer.attachToCanvas(canvas);
    const [low, high] = data.hu;
    const scan = await NVImage.new(
      nifti(arrays.image, (high - low) / 255, low), "scan.nii", "gray", 1, null, -160, 240,
    );
    const masks = await NVImage.new(nifti(arrays.labels, 1, 0), "masks.nii", "gray", 0.6);
    const [kidney, tumor, cyst] = ["kidney", "tumor", "cyst"].map(hex);
    masks.setColormapLabel({
      R: [0, kidney[0], tumor[0], cyst[0]], G: [0, kidney[1], tumor[1], cyst[1]],
      B: [0, kidney[2], tumor[2], cyst[2]], A: [0, 255, 255, 255],
      labels: ["", "kidney", "tumor", "cyst"], I: [0, 1, 2, 3],
    });
    viewer.addVolume(scan);
    viewer.addVolume(masks);
    const views = {
      render: SLICE_TYPE.RENDER, planes: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL,
      coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL,
    };
    const view = section.querySelector("#view");
    const ct = section.querySelector("#viewer-ct");
    const apply = () => {
      viewer.setSliceType(views[view.value]);
      viewer.setOpacity(0, view.value === "render" && ct.getAttribute("aria-pressed") !== "true"
        ? 0 : 1);
      viewer.setOpacity(1, view.value === "render" ? 1 : 0.45);
    };
    view.addEventListener("change", apply);
    ct.addEventListener("click", () => {
      ct.setAttribute("aria-pressed", ct.getAttribute("aria-pressed") !== "true");
      apply();
    });
    for (const control of [view, ct]) control.disabled = false;
    viewer.setRenderAzimuthElevation(160, 12);
    viewer.setScale(1.4);
    apply();
    message.hidden = true;
    section.dataset.state = "ready";
    window.kitspipeViewer = viewer;
  }

  function start() {
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      open(window.kitspipeArrays).catch((error) => {
        section.dataset.state = "failed";
        message.textContent =
          `The viewer can't be shown (${error.message}); the slices above show the same volume.`;
      });
    }, { rootMargin: "300px" });
    watch.observe(section);
  }
  if (window.kitspipeArrays) start();
  else document.addEventListener("kitspipe-ready", start);
})();
