// Data sets and networks: the upload of a file, with progress and the errors of its check; and the page of one of them.

import { Problem, attempt, call, complain, csrf, pause } from "./api.js";

const panel = document.getElementById("upload");
const input = document.getElementById("file");
const progress = document.getElementById("upload-progress");
const words = document.getElementById("upload-words");
const notice = document.getElementById("upload-problem");

const nounOf = (file) => (/\.(onnx|safetensors)$/i.test(file.name) ? "networks" : "datasets");

function send(file) {
  return new Promise((done, refuse) => {
    const request = new XMLHttpRequest(); // fetch reports no progress of an upload
    request.open("POST", `/api/v1/${nounOf(file)}`);
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
    request.addEventListener("error", () => refuse(new Problem({ detail: "The upload was interrupted. Check the network and try again." }, 0)));
    const form = new FormData();
    form.append("name", file.name.slice(0, 120));
    form.append("file", file);
    request.send(form);
  });
}

async function checked(made, noun) {
  while (made.state === "checking") {
    words.textContent = "The file is large; it is being checked …";
    await pause(1500);
    made = await call("GET", `/${noun}/${made.id}`);
  }
  if (made.state === "refused") throw new Problem({ detail: "The file cannot be used.", errors: made.errors }, 422);
  return made;
}

async function upload(file) {
  complain(notice, null);
  const limit = Number(panel.dataset.limit);
  if (file.size > limit) {
    complain(notice, new Problem({ detail: `${file.name} is larger than the ${limit.toLocaleString()} bytes that are allowed.` }, 413));
    return;
  }
  progress.hidden = false;
  try {
    const noun = nounOf(file);
    const made = await checked(await send(file), noun);
    const event = new CustomEvent("uploaded", { detail: made, bubbles: true, cancelable: true });
    if (noun === "networks" || panel.dispatchEvent(event)) location.assign(`/${noun}/${made.id}`);
    else words.textContent = `${file.name} is ready.`;
  } catch (problem) {
    complain(notice, problem);
    progress.hidden = true;
  } finally {
    input.value = "";
  }
}

if (panel) {
  const drop = panel.querySelector(".drop");
  input.addEventListener("change", () => input.files.length && upload(input.files[0]));
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
    if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
}

// --- the page of one data set or network: it appears when its check has ended, and can be deleted

const state = document.getElementById("state");
const button = document.getElementById("delete");

async function watch() {
  while (state?.dataset.state === "checking") {
    await pause(1500);
    try {
      const now = await call("GET", state.dataset.address);
      if (now.state !== "checking") location.reload();
    } catch {
      // the next poll may succeed
    }
  }
}

button?.addEventListener("click", () => {
  if (!confirm(`Delete ${button.dataset.name}? Jobs that used it keep their results.`)) return;
  attempt(button, () => call("DELETE", button.dataset.address).then(() => location.assign("/datasets")));
});

watch();
