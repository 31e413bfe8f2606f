// Violations of accessibility, and of our own rules against inline styles and scripts: one text for each element.
() => {
  const violations = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || e.querySelector("img")?.alt || "").trim();
  for (const e of all("img")) if (!e.hasAttribute("alt")) violations.push(`alt: ${e.outerHTML}`);
  for (const e of all("a[href], button")) if (!name(e) && e.offsetParent) violations.push(`name: ${e.outerHTML}`);
  for (const e of all("input:not([type=hidden]), select, textarea")) {
    if (!e.labels?.length && !e.getAttribute("aria-label")) violations.push(`label: ${e.outerHTML}`);
  }
  for (const e of all("svg[role=img]")) if (!e.getAttribute("aria-label")) violations.push(`svg: ${e.outerHTML}`);
  for (const e of all("[id]")) if (all(`#${CSS.escape(e.id)}`).length > 1) violations.push(`id twice: ${e.id}`);
  if (all("h1").length !== 1) violations.push(`h1: ${all("h1").length}`);
  if (!document.documentElement.lang) violations.push("lang");
  if (!document.querySelector("main")) violations.push("main");
  let last = 1;
  for (const e of all("h1, h2, h3, h4")) {
    if (!e.offsetParent) continue;
    const level = Number(e.tagName[1]);
    if (level > last + 1) violations.push(`heading jumps: ${e.outerHTML}`);
    last = level;
  }
  for (const e of all("[style], script:not([src])")) violations.push(`inline: ${e.outerHTML.slice(0, 80)}`);
  return violations;
};
