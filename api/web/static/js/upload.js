// A file goes up with a bar; what comes back is the data set or the sentence that says what is wrong with the file.

import { Problem, call, complain, csrf, pause } from "./api.js";

const place = document.getElementById("upload");
const input = document.getElementById("file");
const progress = document.getElementById("upload-progress");
const words = document.getElementById("upload-words");
const notice = document.getElementById("upload-problem");

function send(file) {
  return new Promise((done, refuse) => {
    const request = new XMLHttpRequest(); // fetch tells nothing about how far an upload is
    request.open("POST", "/api/v1/datasets");
    request.setRequestHeader("X-CSRFToken", csrf());
    request.upload.addEventListener("progress", (event) => {
      progress.querySelector("progress").value = event.loaded / event.total;
      words.textContent = event.loaded < event.total ? `Uploading ${file.name}: ${Math.round((100 * event.loaded) / event.total)} %` : `Reading ${file.name} …`;
    });
    request.addEventListener("load", () => {
      let document = {};
      try {
        document = JSON.parse(request.responseText);
      } catch {
        document = { detail: `The service answered ${request.status}.` };
      }
      if (request.status < 300) done(document);
      else refuse(new Problem(document, request.status));
    });
    request.addEventListener("error", () => refuse(new Problem({ detail: "The upload was cut off. Check the network and try again." }, 0)));
    const form = new FormData();
    form.append("name", file.name.slice(0, 120));
    form.append("file", file);
    request.send(form);
  });
}

async function checked(dataset) {
  while (dataset.state === "checking") {
    words.textContent = "The file is large; it is being checked …";
    await pause(1500);
    dataset = await call("GET", `/datasets/${dataset.id}`);
  }
  if (dataset.state === "refused") throw new Problem({ detail: "The file cannot be used.", errors: dataset.errors }, 422);
  return dataset;
}

async function take(file) {
  complain(notice, null);
  const limit = Number(place.dataset.limit);
  if (file.size > limit) {
    complain(notice, new Problem({ detail: `${file.name} is larger than the ${limit.toLocaleString()} bytes that are allowed.` }, 413));
    return;
  }
  progress.hidden = false;
  try {
    const dataset = await checked(await send(file));
    const event = new CustomEvent("uploaded", { detail: dataset, bubbles: true, cancelable: true });
    if (place.dispatchEvent(event)) location.assign(`/datasets/${dataset.id}`);
    else words.textContent = `${file.name} is ready.`;
  } catch (problem) {
    complain(notice, problem);
    progress.hidden = true;
  } finally {
    input.value = "";
  }
}

if (place) {
  const drop = place.querySelector(".drop");
  input.addEventListener("change", () => input.files.length && take(input.files[0]));
  for (const name of ["dragover", "dragenter"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
