// What a screen reader needs, and what our own rules forbid: a list of the elements that lack it.
() => {
  const lacks = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || e.querySelector("img")?.alt || "").trim();
  for (const e of all("img")) if (!e.hasAttribute("alt")) lacks.push(`alt: ${e.outerHTML}`);
  for (const e of all("a[href], button")) if (!name(e) && e.offsetParent) lacks.push(`name: ${e.outerHTML}`);
  for (const e of all("input:not([type=hidden]), select, textarea")) {
    if (!e.labels?.length && !e.getAttribute("aria-label")) lacks.push(`label: ${e.outerHTML}`);
  }
  for (const e of all("svg[role=img]")) if (!e.getAttribute("aria-label")) lacks.push(`svg: ${e.outerHTML}`);
  for (const e of all("[id]")) if (all(`#${CSS.escape(e.id)}`).length > 1) lacks.push(`id twice: ${e.id}`);
  if (all("h1").length !== 1) lacks.push(`h1: ${all("h1").length}`);
  if (!document.documentElement.lang) lacks.push("lang");
  if (!document.querySelector("main")) lacks.push("main");
  let last = 1;
  for (const e of all("h1, h2, h3, h4")) {
    if (!e.offsetParent) continue;
    const level = Number(e.tagName[1]);
    if (level > last + 1) lacks.push(`heading jumps: ${e.outerHTML}`);
    last = level;
  }
  for (const e of all("[style], script:not([src])")) lacks.push(`inline: ${e.outerHTML.slice(0, 80)}`);
  return lacks;
};
