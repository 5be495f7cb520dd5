/** The few things we ask of the document. Data goes in as text only, never as markup. */

/** @param {string} id @returns {any} the element; the page is ours, so it is there */
export function byId(id) {
  return document.getElementById(id);
}

/** @param {string} tag @param {string} [className] @param {string} [text] */
export function el(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Write text if it differs: the same text again would still cost a layout.
 * @param {Element} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Write a `data-` value if it differs. @param {HTMLElement} node
 * @param {string} name @param {string} value */
export function setData(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

/** Make `draw` something that may be asked for at any rate and runs once a frame at most.
 * @param {() => void} draw @returns {() => void} */
export function onFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
