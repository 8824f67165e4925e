"use strict";
const find = (selector, of = document) => of.querySelector(selector);
const all = (selector, of = document) => [...of.querySelectorAll(selector)];
const say = text => { find("#error").textContent = text; };

async function ask(name, values, change = false) {
  const address = `/api/${name}` + (change ? "" : `?${new URLSearchParams(values)}`);
  const options = change ? { method: "POST", body: JSON.stringify(values), headers: { "Content-Type": "application/json" } } : {};
  say("");
  try {
    const answer = await fetch(address, options), result = await answer.json();
    if (!answer.ok) throw new Error(result.error);
    return result;
  } catch (error) { say(error.message); throw error; }
}

function element(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

function fill(select, names, first) {
  select.replaceChildren(...(first === undefined ? [] : [new Option(first, "")]), ...names.map(n => new Option(n, n)));
  select.parentElement.hidden = !names.length;
}

const percent = share => `${(100 * share).toFixed(0)} %`;

// The trials of a listener, one after the other; returns what sends an answer and shows the next.
function blind(page, test, put) {
  const trial = find(".trial", page);
  let now, listener;
  const show = next => {
    now = next;
    trial.hidden = false;
    const done = next.text === null;
    find(".quiet", trial).textContent = done ? `All ${next.of} are answered. Thank you.` : `${next.trial + 1} of ${next.of}`;
    find(".text", trial).textContent = next.text ?? "";
    all(".asked", trial).forEach(part => { part.hidden = done; });
    all("audio", trial).forEach(sound => sound.removeAttribute("src"));
    put([...Array(next.clips).keys()].map(side => `/api/${test}/clip?${new URLSearchParams({ listener, trial: next.trial, side })}`), next);
  };
  find(".who", page).onsubmit = async event => {
    event.preventDefault();
    listener = event.target.listener.value.trim();
    show(await ask(`${test}/trial`, { listener }));
  };
  return async answer => show(await ask(`${test}/answer`, { listener, trial: now.trial, ...answer }, true));
}

function result(page, test, lines) {
  find(".show", page).onclick = async () => {
    const told = lines(await ask(`${test}/result`, {}));
    find("table", page).replaceChildren(...(told.length ? told : ["No answers yet."]).map(line => element("tr", {}, element("td", { textContent: line }))));
  };
  find(".log", page).onclick = async () => say(`logged on ${(await ask(`${test}/log`, {}, true)).logged.join(", ")}`);
}

const pages = {
  speak(models) {
    const form = find("#speak form"), [place] = all(".side > div", form), more = find(".more", form);
    const begin = (place, first) => {
      const model = find("[name=model]", place);
      const facts = async () => {
        const { languages, voices } = model.value ? await ask("voice", { model: model.value }) : { languages: [], voices: [] };
        fill(find("[name=language]", place), languages, "its own");
        fill(find("[name=voice]", place), voices, "its own");
      };
      fill(model, models, first);
      model.onchange = facts;
      facts();
      return model;
    };
    more.onclick = () => {
      const another = place.cloneNode(true);
      place.parentElement.append(another);
      begin(another, "none").focus();
    };
    begin(place);
    form.onsubmit = async event => {
      event.preventDefault();
      const places = all(".side > div", form), shown = places.map(() => element("div", { className: "spoken" }));
      find("#speak > .side").replaceChildren(...shown);
      for (const [n, place] of places.entries()) {
        const values = Object.fromEntries(all("select", place).map(s => [s.name, s.value]));
        if (!values.model) continue;
        shown[n].replaceChildren("speaking ...");
        try {
          const { wav, mel, tokens, normalised, seconds } = await ask("speak", { ...values, text: form.text.value, speed: +form.speed.value, pitch: +form.pitch.value }, true);
          shown[n].replaceChildren(element("h3", { textContent: values.model }), element("audio", { controls: true, src: wav }),
            element("p", { textContent: `${seconds.toFixed(1)} s. ` }, element("a", { href: wav, download: "speech.wav", textContent: "Download" })),
            element("p", { className: "normalised", dir: "auto", textContent: normalised }), element("img", { src: mel, alt: tokens ? "mel with its tokens" : "mel" }));
        } catch { shown[n].replaceChildren(); }
      }
    };
  },

  listen() {
    const page = find("#listen"), trial = find(".trial", page), sounds = all("audio", trial);
    const show = blind(page, "listen", clips => clips.forEach((clip, side) => { sounds[side].src = clip; }));
    all(".trial button", page).forEach(button => {
      button.onclick = () => show({ choice: button.value });
    });
    result(page, "listen", ({ pairs, strengths, left_out }) => [
      ...strengths.map(s => `${s.system} preferred to a voice of mean strength: ${percent(s.share)} (${percent(s.low)} to ${percent(s.high)})`),
      ...pairs.map(p => `${p.one} preferred to ${p.other}: ${percent(p.share)} (${percent(p.low)} to ${percent(p.high)}), sign test p = ${p.p_value.toPrecision(2)}; ${p.wins} for, ${p.losses} against, ${p.undecided} undecided; ${p.listeners} listeners`),
      ...(left_out.length ? [`left out, as they choose one side only: ${left_out.join(", ")}`] : []),
    ]);
  },

  rate() {
    const page = find("#rate"), place = find(".clips", page), next = find(".next", page);
    let sliders = [];
    const show = blind(page, "rate", (clips, { reference }) => {
      next.disabled = true;
      find(".person", page).hidden = !reference;
      sliders = clips.map((src, n) => {
        const name = String.fromCharCode(65 + n), points = element("output", { textContent: "–" });
        const slider = element("input", { type: "range", min: 0, max: 100, value: 50, disabled: true, ariaLabel: `points of ${name}` });
        const sound = element("audio", { controls: true, src, ariaLabel: name });
        sound.onplay = () => { slider.disabled = false; all("audio", place).forEach(other => { if (other !== sound) other.pause(); }); };
        slider.oninput = () => {
          points.textContent = slider.value;
          next.disabled = all("output", place).some(of => of.textContent === "–");
        };
        return { slider, row: element("div", { className: "clip" }, element("b", { textContent: name }), " ", points, sound, slider) };
      });
      place.replaceChildren(...sliders.map(of => of.row));
      find("audio", place)?.focus();
    });
    next.onclick = () => show({ points: sliders.map(of => +of.slider.value) });
    result(page, "rate", ({ means, differences, left_out }) => [
      ...means.map(m => `${m.system}: ${m.points.toFixed(1)} points (${m.low.toFixed(1)} to ${m.high.toFixed(1)}); ${m.listeners} listeners`),
      ...differences.map(d => `${d.one} above ${d.other} by ${d.points.toFixed(1)} (${d.low.toFixed(1)} to ${d.high.toFixed(1)})`),
      ...(left_out.length ? [`left out, as they do not hear the recording: ${left_out.join(", ")}`] : []),
    ]);
  },

  async record() {
    const page = find("#record"), start = find(".start", page), keep = find(".keep", page), sound = find("audio", page), level = find("meter", page);
    let sentence, context, source, pieces = [], wav;
    const show = next => {
      sentence = next.sentence;
      find(".quiet", page).textContent = `${next.recorded} of ${next.of} recorded`;
      find(".text", page).textContent = sentence ?? "All sentences are recorded.";
      start.disabled = sentence === null;
      keep.disabled = true;
      sound.removeAttribute("src");
    };
    const stop = async () => {
      source.mediaStream.getTracks().forEach(track => track.stop());
      const rate = context.sampleRate;
      await context.close();
      context = undefined;
      level.value = 0;
      start.textContent = "Record again";
      wav = toWav(pieces, rate);
      sound.src = URL.createObjectURL(wav);
      keep.disabled = false;
      keep.focus();
    };
    start.onclick = async () => {
      if (context) return stop();
      if (!navigator.mediaDevices) return say("The browser gives a microphone to pages of 127.0.0.1 and https alone.");
      say("");
      try {
        const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
        const stream = await navigator.mediaDevices.getUserMedia({ audio });
        context = new AudioContext();
        await context.audioWorklet.addModule("recorder.js");
        source = context.createMediaStreamSource(stream);
      } catch (error) { context = undefined; return say(`No microphone: ${error.message}`); }
      const recorder = new AudioWorkletNode(context, "recorder");
      pieces = [];
      recorder.port.onmessage = ({ data }) => {
        pieces.push(data);
        level.value = Math.max(0.9 * level.value, ...data.map(Math.abs));
        find(".seconds", page).textContent = `${(pieces.length * data.length / context?.sampleRate || 0).toFixed(1)} s`;
      };
      source.connect(recorder).connect(context.destination);
      keep.disabled = true;
      start.textContent = "Stop";
    };
    keep.onclick = async () => {
      const text = await new Promise(done => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result.split(",")[1]);
        reader.readAsDataURL(wav);
      });
      show(await ask("recording", { sentence, wav: text }, true));
      start.textContent = "Record";
      start.focus();
    };
    show(await ask("sentence", {}));
  },

  async corpus() {
    const page = find("#corpus"), form = find("form", page);
    let start = 0, n = 0;
    const show = async () => {
      const { rows, of } = await ask("rows", { start, word: form.word.value });
      n = rows.length;
      find(".quiet", page).textContent = `${of ? start + 1 : 0} to ${start + n} of ${of}`;
      find("table", page).replaceChildren(...rows.map(row => {
        const bad = element("input", { type: "checkbox", checked: row.bad, disabled: !row.plays });
        bad.onchange = () => ask("mark", { index: row.index, bad: bad.checked }, true).catch(() => { bad.checked = !bad.checked; });
        const sound = element("audio", { controls: true, preload: "none", src: `/api/row?index=${row.index}` });
        return element("tr", {}, element("td", { dir: "auto" }, element("b", { textContent: `${row.id} ` }), row.text, element("div", { className: "quiet", textContent: row.why }), ...(row.plays ? [sound] : [])),
          element("td", {}, element("label", {}, bad, " bad")));
      }));
    };
    form.onsubmit = event => { event.preventDefault(); start = 0; show(); };
    find(".back", page).onclick = () => { start = Math.max(0, start - 50); show(); };
    find(".on", page).onclick = () => { if (n === 50) { start += 50; show(); } };
    await show();
  },
};

function toWav(pieces, rate) {
  const n = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * n));
  const word = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * n, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * n, true);
  let at = 44;
  for (const piece of pieces) for (const x of piece) { view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * x))), true); at += 2; }
  return new Blob([view], { type: "audio/wav" });
}

ask("about", {}).then(about => {
  const open = {};
  for (const name of about.pages) {
    const button = element("button", { textContent: name[0].toUpperCase() + name.slice(1) });
    button.onclick = () => {
      all("section").forEach(section => { section.hidden = section.id !== name; });
      all("nav button").forEach(b => b.setAttribute("aria-current", b === button ? "page" : "false"));
      say("");
      open[name] ??= pages[name](about.models) ?? true;
    };
    find("nav").append(button);
  }
  find("nav button").click();
});
