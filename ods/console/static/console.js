"use strict";
// Keeps the open page current, and its times; the rest of the console works without it.
(() => {
  const stream = document.body.dataset.stream;
  const note = document.getElementById("live");
  const POLL = 2000, APART = 1000, CLOCK = 10000;
  const fetched = new Map();
  let source = null, poll = 0, brokenAt = null, over = false;

  // What was typed or chosen, and what was opened, stays as it is when the page around it changes.
  const isControl = (node) => /^(INPUT|SELECT|TEXTAREA)$/.test(node.tagName || "");
  Object.assign(Idiomorph.defaults.callbacks, {
    beforeNodeMorphed: (old, next) => !(isControl(old) && isControl(next)),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  });

  // An element is fetched at most once a second.
  function fetchSoon(element) {
    const key = element.id, last = fetched.get(key) || 0, now = Date.now();
    if (last > now) return;
    const at = Math.max(last + APART, now);
    fetched.set(key, at);
    setTimeout(() => {
      const found = document.getElementById(key);
      if (found) htmx.trigger(found, "live");
    }, at - now);
  }

  function refresh(topics) {
    for (const element of document.querySelectorAll("[data-live]")) {
      const own = element.dataset.live.split(" ");
      if (topics.has("*") || own.some((topic) => topics.has(topic))) fetchSoon(element);
    }
  }

  function say(text) {
    if (note && note.textContent !== text) note.textContent = text;
  }

  function broken() {
    if (!brokenAt) {
      brokenAt = new Date();
      const time = brokenAt.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      say(note.dataset.broken.replace("{time}", time));
    }
    if (!poll) {
      poll = setInterval(() => {
        refresh(new Set("*"));
        if (source.readyState === EventSource.CLOSED) connect();
      }, POLL);
    }
  }

  function whole() {
    clearInterval(poll);
    poll = 0;
    brokenAt = null;
    say("");
  }

  function ended() {
    over = true;
    source.close();
    whole();
    say(note.dataset.ended);
    // What was typed stays.
    document.querySelectorAll("[data-live],main>:not(form,#live,:has(form))").forEach((it) => it.remove());
  }

  function connect() {
    source = new EventSource(stream);
    source.addEventListener("error", broken);
    source.addEventListener("ended", ended);
    source.addEventListener("changed", (event) => {
      whole();
      refresh(new Set(event.data.split(" ")));
    });
  }

  // Times in the viewer's zone, and as long ago as they are by now.
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  function ago(seconds) {
    const [length, unit] = UNITS.find(([size]) => seconds >= size) || [1, "s"];
    return `${Math.floor(seconds / length)} ${unit}`;
  }
  function tellTimes() {
    for (const time of document.querySelectorAll("time[data-ago], time[data-at]")) {
      const at = new Date(time.dateTime);
      const exact = at.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
      const shown = "at" in time.dataset ? exact : time.dataset.ago.replace("{time}", ago(Math.abs(Date.now() - at) / 1000));
      if (time.title !== exact) time.title = exact;
      if (time.textContent !== shown) time.textContent = shown;
    }
  }

  document.addEventListener("htmx:configRequest", (event) => {
    // The browser may be signed in to another tenant by now, which has other instances with the same numbers.
    if (document.body.dataset.tenant) event.detail.headers["Console-Tenant"] = document.body.dataset.tenant;
    if (event.detail.triggeringEvent?.type === "live") event.detail.headers["Console-Live"] = "1";
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401 && source) ended();
  });
  document.addEventListener("htmx:afterSwap", tellTimes);
  // All instances of a list at once; without the script each has its own box.
  document.addEventListener("change", (event) => {
    if (event.target.id !== "choose-all") return;
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  });
  // A secret that is shown once is not there when the browser goes back to its page.
  addEventListener("pagehide", () => document.querySelector("[data-once]")?.remove());
  tellTimes();
  setInterval(tellTimes, 1000);
  // What no stream tells, as what is on the server, is asked for now and then.
  setInterval(() => document.hidden || over || refresh(new Set(["clock"])), CLOCK);
  if (stream) {
    connect();
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (event) => event.persisted && connect());
    // Browsers have only six connections to a server: pages that are not seen need none.
    document.addEventListener("visibilitychange", () => {
      if (over) return;
      source.close();
      whole();
      if (!document.hidden) connect();
    });
  }
})();
