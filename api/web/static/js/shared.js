// The page of a link begins where whoever shared it wants it to begin.

const part = document.getElementById("view").dataset.part;

if (part && !location.hash) document.getElementById(part)?.scrollIntoView();
