// The training as a film that a worker makes.

import { complain, fileReady } from "./api.js";

const run = document.getElementById("film").dataset.run;
const field = (name) => document.getElementById(name);

field("film-make").addEventListener("click", async (event) => {
  event.target.disabled = true;
  complain(field("film-problem"), null);
  field("film-words").textContent = "The film is being made; the longer the training, the longer it takes …";
  try {
    await fileReady(`/api/v1/runs/${run}/film.mp4`);
    const video = document.createElement("video");
    video.controls = true;
    video.loop = true;
    video.src = `/api/v1/runs/${run}/film.mp4`;
    video.setAttribute("aria-label", "The training as a film: connections fade and grow, and neurons exchange places.");
    field("film-video").replaceChildren(video);
    field("film-words").textContent = "";
    event.target.hidden = true;
  } catch (problem) {
    field("film-words").textContent = "";
    event.target.disabled = false;
    complain(field("film-problem"), problem);
  }
});
