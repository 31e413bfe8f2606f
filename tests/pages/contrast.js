// Text with too little contrast against its background (WCAG 2: 4.5, large text 3): its ratio and first letters.
() => {
  const colour = (text) => {
    const parts = text.match(/[\d.]+/g).map(Number);
    const rgb = parts.slice(0, 3).map((v) => (text.startsWith("color(") ? 255 * v : v));
    return [...rgb, parts[3] ?? 1];
  };
  const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] + b[i] * (1 - a[3]));
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    let back = [0, 0, 0, 0];
    for (let e = element; e && back[3] < 1; e = e.parentElement) {
      const next = colour(getComputedStyle(e).backgroundColor);
      if (next[3] === 0) continue;
      back = back[3] === 0 ? next : [...over(back, next), Math.min(1, back[3] + next[3] * (1 - back[3]))];
    }
    return back;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const words = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!words || !element.offsetParent || element.closest("svg, option, .visually-hidden, :disabled, .skip")) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const [more, less] = [light(over(colour(style.color), back)), light(back)].sort((p, q) => q - p);
    const ratio = (more + 0.05) / (less + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < needed) found.push(`${ratio.toFixed(2)} ${words.slice(0, 40)}`);
  }
  return found;
};
