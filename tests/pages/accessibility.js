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
  const reached = "a[href], button:not([disabled]), input, select, textarea, summary, [tabindex]:not([tabindex='-1'])";
  for (const e of all("svg[role=img], [aria-hidden=true]")) if (e.querySelector(reached)) violations.push(`control in an image or in what is hidden: ${e.outerHTML.slice(0, 120)}`);
  for (const e of all("[role=slider], [role=button], [role=region], [role=group], dialog, section[aria-labelledby]")) {
    if (!name(e) && !e.getAttribute("aria-labelledby")) violations.push(`role without a name: ${e.outerHTML.slice(0, 120)}`);
  }
  for (const attribute of ["aria-labelledby", "aria-describedby", "for", "list"]) {
    for (const e of all(`[${attribute}]`)) {
      for (const id of e.getAttribute(attribute).split(/\s+/)) if (!document.getElementById(id)) violations.push(`${attribute} of nothing: ${id}`);
    }
  }
  const navigations = all("nav").map((e) => e.getAttribute("aria-label"));
  if (new Set(navigations).size < navigations.length) violations.push(`navigations of one name: ${navigations}`);
  for (const e of all("main *")) {
    const { overflowX, overflowY } = getComputedStyle(e);
    const scrolls = (/auto|scroll/.test(overflowX) && e.scrollWidth > e.clientWidth + 1) || (/auto|scroll/.test(overflowY) && e.scrollHeight > e.clientHeight + 1);
    if (scrolls && e.offsetParent && e.tabIndex < 0 && !e.querySelector(reached)) violations.push(`scrolls beyond the keyboard's reach: ${e.outerHTML.slice(0, 120)}`);
  }
  for (const e of all("body *")) {
    const own = [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (own && e.offsetParent && !e.closest("header, nav, main, footer, aside, dialog, .skip")) violations.push(`outside of every landmark: ${e.textContent.slice(0, 60)}`);
  }
  for (const e of all("[style], script:not([src])")) violations.push(`inline: ${e.outerHTML.slice(0, 80)}`);
  return violations;
};
