/** Decimal text: shown with the exchange's own digits, computed exactly where it is computed. */
import { el, setText } from "./dom.js";

const CALM = matchMedia("(prefers-reduced-motion: reduce)");

/** `a - b`, exactly, with the digits of the finer one.
 * @param {string} a @param {string} b */
export function subtract(a, b) {
  const places = Math.max(decimals(a), decimals(b));
  const difference = scaled(a, places) - scaled(b, places);
  const digits = String(difference < 0n ? -difference : difference).padStart(places + 1, "0");
  const sign = difference < 0n ? "-" : "";
  if (!places) return sign + digits;
  return `${sign}${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

/** How many digits follow the point. @param {string} text */
export function decimals(text) {
  const point = text.indexOf(".");
  return point < 0 ? 0 : text.length - point - 1;
}

/** @param {string} text @param {number} places at least its own */
function scaled(text, places) {
  return BigInt(text.replace(".", "") + "0".repeat(places - decimals(text)));
}

/**
 * Show a price or size digit for digit. From five whole digits on the thousands stand a little
 * apart, a row of zeros at the end is faint, a long number is set smaller: by style only, the text
 * (also when copied) stays as it came. Null shows a dash.
 * @param {HTMLElement} node @param {string|null|undefined} text
 */
export function showNumber(node, text) {
  const shown = text ?? "–";
  if (node.textContent === shown) return;
  const parts = takeApart(shown);
  const classes = parts.map(([name]) => name).join();
  if (parts.length === 1) {
    node.textContent = shown;
  } else if (node.dataset.parts === classes && node.childElementCount === parts.length) {
    parts.forEach(([, part], i) => setText(node.children[i], part));
  } else {
    node.replaceChildren(...parts.map(([name, part]) => el("span", name, part)));
    node.dataset.parts = classes;
  }
  node.classList.toggle("long", shown.length > 11);
}

/** Thousands, the rest, and of a long fraction the zeros at its end, if there are many.
 * @param {string} text @returns {[className: string, part: string][]} */
function takeApart(text) {
  const places = decimals(text);
  const whole = text.length - (places && places + 1);
  const ending = text.length - text.replace(/0+$/, "").length;
  const zeros = places > 4 && ending > 2 ? Math.min(ending, places - 2) : 0;
  /** @type {[string, string][]} */
  const parts = zeros ? [["zeros", text.slice(-zeros)]] : [];
  let end = text.length - zeros;
  for (let start = whole - 3; whole > 4 && start > 0; start -= 3) {
    parts.unshift(["k", text.slice(start, end)]);
    end = start;
  }
  parts.unshift(["k", text.slice(0, end)]);
  return parts;
}

/**
 * Light a cell up for a moment where its number rose or fell.
 * @param {HTMLElement} node @param {string|null|undefined} before @param {string|null|undefined} now
 */
export function flash(node, before, now) {
  if (before == null || now == null || before === now || CALM.matches) return;
  const rise = Number(now) - Number(before);
  if (!rise) return;
  const style = getComputedStyle(document.documentElement);
  const colour = style.getPropertyValue(rise > 0 ? "--up" : "--down");
  const glow = style.getPropertyValue(rise > 0 ? "--up-glow" : "--down-glow");
  for (const running of node.getAnimations()) running.cancel();
  node.animate(
    [
      { color: colour, backgroundColor: glow },
      { color: colour, backgroundColor: "transparent", offset: 0.4 },
      {},
    ],
    // In a few steps, since every step of every lit cell is a repaint.
    { duration: 800, easing: "steps(8)" },
  );
}
