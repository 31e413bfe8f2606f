// Every page: the moments are shown in the reader's own time.

for (const time of document.querySelectorAll("time[datetime]")) {
  const moment = new Date(time.dateTime);
  if (!Number.isNaN(moment.valueOf())) time.title = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
