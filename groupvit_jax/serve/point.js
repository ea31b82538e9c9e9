// Pointing at a pixel of the result tells its class: the class lights up, and
// its name is shown beside the mouse.
() => {
  const SIDE = 256; // pixels at which masks are read
  const read = new Map(); // alphas by address
  let lit = null;

  const alphas = (mask) => {
    if (!read.has(mask.src)) {
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = SIDE;
      const context = canvas.getContext('2d');
      context.imageSmoothingEnabled = false;
      context.drawImage(mask, 0, 0, SIDE, SIDE);
      if (read.size > 100) read.clear();
      read.set(mask.src, context.getImageData(0, 0, SIDE, SIDE).data);
    }
    return read.get(mask.src);
  };

  const covers = (mask, event) => {
    if (!mask.complete || !mask.naturalWidth) return false;
    const box = mask.getBoundingClientRect();
    const scale = Math.min(
      box.width / mask.naturalWidth, box.height / mask.naturalHeight);
    const [x, y] = [
      (event.clientX - box.x - box.width / 2) / mask.naturalWidth,
      (event.clientY - box.y - box.height / 2) / mask.naturalHeight,
    ].map((offset) => Math.floor((offset / scale + 0.5) * SIDE));
    const inside = x >= 0 && y >= 0 && x < SIDE && y < SIDE;
    return inside && alphas(mask)[4 * (y * SIDE + x) + 3] > 0;
  };

  document.addEventListener('mousemove', (event) => {
    const shown = document.querySelector('#classes');
    const image = shown && shown.querySelector('.base-image');
    if (!image) return;
    const masks = [...shown.querySelectorAll('img.mask')];
    const names = shown.querySelectorAll('.legend-item');
    const over = image.parentElement.contains(event.target);
    const found = over ? masks.findIndex((mask) => covers(mask, event)) : -1;
    const name = found < 0 ? null : names[found];
    image.parentElement.title = name ? name.textContent.trim() : '';
    if (name === lit) return;
    if (lit) lit.dispatchEvent(new MouseEvent('mouseout', {bubbles: true}));
    if (name) name.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));
    lit = name;
  });
}
