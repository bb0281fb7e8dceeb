"use strict";
/* Decide the items of a pack. Every text of the pack becomes a text node; an original is requested after two steps and
   never before; each decision is kept in this browser at once, until it is downloaded as a verdict file. */
(() => {
  const pack = JSON.parse(document.getElementById("pack").textContent);
  const items = pack.items;
  const ROW = 72, BREAK_OPENS = 20, BREAK_S = 45 * 60, IDLE_S = 120;
  const PREFIX = `nsfwscan/${pack.pack}/`;
  const at = (id) => document.getElementById(id);
  const KEYS = [
    ["a", "approve: harmless, may stay"], ...pack.categories.slice(0, 9).map((name, i) => [String(i + 1), `remove as ${name}`]),
    ["e", "escalate: somebody with more authority decides"], ["s", "skip"], ["u", "undo the decision on this item, or else the last one"],
    ["o", "ask for the original"], ["r", "write a reason"], ["j, ↓", "next item"], ["k, ↑", "previous item"], ["n", "next undecided item"], ["Enter", "from the list to the item"], ["Esc", "back to the list"], ["?", "show these keys"],
  ];

  /* What a person has decided: entries by their id, and the standing one of each item. */
  const entries = new Map();
  const standing = new Map();
  let chosen = 0, listed = [], leftOut = new Set(), spent = 0, opened = false, zoomed = false, reason = "";
  const today = () => new Date().toISOString().slice(0, 10);
  const begin = (since = { opens: 0, seconds: 0 }) => ({ id: crypto.randomUUID(), day: today(), opens: 0, seconds: 0, breaks: [], changes: [], since });
  let session = begin();
  const earlier = new Map();
  let lasting = true, active = Date.now(), ticked = Date.now();

  function keep(key, value) {
    const put = () => localStorage.setItem(PREFIX + key, JSON.stringify(value));
    try {
      try { put(); } catch (error) { if (!made_room()) throw error; put(); }
    } catch {
      lasting = false;
    }
    if (!lasting) warn("This browser can store nothing more. Your decisions are lost when you close this tab: download the verdicts now.");
  }

  /* Let go of other packs whose decisions were all downloaded: a browser stores some ten thousand decisions. */
  function made_room() {
    const keys = Object.keys(localStorage), mark = /^nsfwscan\/[^/]+\/downloaded$/;
    const done = keys.filter((key) => mark.test(key) && !key.startsWith(PREFIX)).map((key) => key.slice(0, -"downloaded".length));
    const gone = keys.filter((key) => done.some((prefix) => key.startsWith(prefix)));
    gone.forEach((key) => localStorage.removeItem(key));
    return gone.length > 0;
  }

  function load() {
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const key = localStorage.key(i);
        if (key.startsWith(`${PREFIX}entry/`)) take(JSON.parse(localStorage.getItem(key)));
        if (key.startsWith(`${PREFIX}session/`)) { const one = JSON.parse(localStorage.getItem(key)); earlier.set(one.day, one); }
      }
      session = { ...session, ...JSON.parse(localStorage.getItem(`${PREFIX}session`)) };
      at("reviewer").value = pack.reviewer || (JSON.parse(localStorage.getItem(`${PREFIX}reviewer`)) ?? "");
    } catch {
      lasting = false;
      warn("This browser stores nothing for this page. Your decisions are lost when you close this tab: download the verdicts before.");
    }
    settle();
  }

  function take(entry) {
    if (entry && Number.isInteger(entry.item) && items[entry.item]) entries.set(entry.id, entry);
  }

  function settle() {
    standing.clear();
    for (const entry of inOrder()) entry.verdict === "undo" ? standing.delete(entry.item) : standing.set(entry.item, entry);
  }

  const inOrder = () => [...entries.values()].sort((a, b) => a.turn - b.turn);

  /* Text that hides nothing: control and direction characters are spelled out. */
  const spelled = (text) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

  function make(name, options = {}, ...inside) {
    const { text, on, data, ...attributes } = options;
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(key, value);
    if (text !== undefined) element.append(make_bdi(text));
    for (const [event, handler] of Object.entries(on ?? {})) element.addEventListener(event, handler);
    element.append(...inside.filter((one) => one !== null));
    return element;
  }

  function make_bdi(text) {
    const bdi = document.createElement("bdi");
    bdi.textContent = spelled(text);
    return bdi;
  }

  function warn(text) {
    at("warning").textContent = text;
    at("warning").hidden = !text;
  }

  const say = (text) => { at("said").textContent = spelled(text); };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const short = (uri) => (uri.length > 70 ? `… ${uri.slice(-66)}` : uri);

  function cover(view, item) {
    if (!view?.cover) return make("div", { class: "cover none" }, make("span", { text: item.no_cover ?? "no cover" }));
    return make("div", { class: "cover" }, make("img", { src: view.cover, alt: "" }));
  }

  /* The list: only the rows in sight are there. */
  function list() {
    const show = at("filter").value;
    listed = items.map((_, i) => i).filter((i) => show === "all" || standing.has(i) === (show === "decided") || i === chosen);
    at("rows").style.height = `${listed.length * ROW}px`;
    rows();
  }

  function rows() {
    const box = at("list"), first = Math.max(0, Math.floor(box.scrollTop / ROW) - 5);
    const last = Math.min(listed.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 5);
    at("rows").replaceChildren(...listed.slice(first, last).map((number, i) => row(number, first + i)));
    listed.includes(chosen) ? box.setAttribute("aria-activedescendant", `i${chosen}`) : box.removeAttribute("aria-activedescendant");
    counts();
  }

  function row(number, place) {
    const item = items[number], entry = standing.get(number);
    const made = make("div", {
      class: "row", id: `i${number}`, role: "option", "aria-selected": String(number === chosen),
      "aria-setsize": listed.length, "aria-posinset": place + 1, on: { click: () => { choose(number); at("list").focus(); } },
    }, cover(item.views[0], { no_cover: "" }), make("div", {}, make("p", { text: item.line }), make("p", { class: "muted", text: short(item.members[0].uri) })),
    make("span", { class: `state ${entry?.verdict ?? ""}`, text: entry ? word(entry) : "" }));
    made.style.top = `${place * ROW}px`;
    return made;
  }

  const word = (entry) => (entry.verdict === "remove" ? entry.category : { approve: "approved", escalate: "escalated" }[entry.verdict]);

  function counts() {
    const unopened = [...standing.values()].filter((entry) => !entry.opened).length;
    at("counts").textContent = `${standing.size.toLocaleString("en")} decided, ${unopened.toLocaleString("en")} of them unopened · ${session.opens} opened · ${Math.round(session.seconds / 60)} min`;
  }

  function choose(number) {
    if (number !== chosen) { spent = 0; opened = zoomed = false; leftOut = new Set(); reason = ""; }
    chosen = number;
    const place = listed.indexOf(number), box = at("list");
    if (place >= 0) {
      if (place * ROW < box.scrollTop) box.scrollTop = place * ROW;
      if ((place + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (place + 1) * ROW - box.clientHeight;
    }
    rows();
    detail();
  }

  function move(by) {
    const place = listed.indexOf(chosen);
    const next = listed[Math.min(listed.length - 1, Math.max(0, place + by))];
    if (next !== undefined) choose(next);
    say(`Item ${next + 1}: ${items[next]?.line ?? ""}`);
  }

  function advance(from) {
    const order = [...items.keys()];
    const next = [...order.slice(from + 1), ...order.slice(0, from)].find((i) => !standing.has(i) && decidable(items[i]));
    list();
    if (next === undefined) { choose(from); return "Every item is decided. Download the verdicts."; }
    list();
    choose(next);
    list();
    return `Next, item ${next + 1}: ${items[next].line}`;
  }

  const decidable = (item) => item.members.some((member) => member.sha256);

  /* The chosen item. */
  function detail() {
    const item = items[chosen], entry = standing.get(chosen);
    if (!item) { at("detail").replaceChildren(make("p", { text: "This pack has no items." })); return; }
    const parts = [
      make("h2", { class: "text", text: item.line, tabindex: -1 }),
      make("p", { class: "muted", text: `item ${chosen + 1} of ${items.length} · ${item.summary}` }),
      views(item), decisions(item, entry), members(item), facts(item),
    ];
    const focused = document.activeElement?.closest("#detail [data-act]")?.dataset.act;
    at("detail").replaceChildren(...parts.filter((one) => one !== null));
    if (focused) (at("detail").querySelector(`[data-act="${CSS.escape(focused)}"]`) ?? at("list")).focus();  // who works by Tab stays where they are
  }

  function views(item) {
    if (!item.views.length) return make("ul", { class: "covers" }, make("li", {}, cover(null, item), ask(item, 0)));
    const shown = item.views.map((view, i) => make("li", {}, cover(view, item), view.at_s === null ? null : make("span", { text: `at ${clock(view.at_s)}${view.score === null ? "" : `, ${percent(view.score)}`}` }), i ? null : ask(item, 0)));
    return make("ul", { class: "covers", "aria-label": "Covers" }, ...shown);
  }

  const percent = (score) => `${Math.round(score * 100)}%`;

  function ask(item, member) {
    if (!item.members[member].original && !(member === 0 && item.views.some((view) => view.picture))) return null;
    return make("button", { type: "button", text: "Original …", "aria-label": `Original of ${spelled(item.members[member].uri)} …`, on: { click: () => confirm_open(item, member) } });
  }

  function decisions(item, entry) {
    if (!decidable(item)) return make("p", { class: "warning", text: "The scan could not read this object, so it has no hash, and a verdict needs one. You can only skip it." });
    const button = (key, label, kind, act) => make("button", { type: "button", class: kind, "data-act": key || label, on: { click: act } }, make_bdi(label), key ? make("kbd", { "aria-hidden": "true" }, key) : "");
    const which = included(item).length, many = item.members.length > 1 ? ` (${which} of ${item.members.length} contents)` : "";
    const options = make("datalist", { id: "reasons" }, ...pack.reasons.map((text) => make("option", { value: spelled(text) })));
    const field = make("input", { id: "reason", list: "reasons", maxlength: 2000, autocomplete: "off", on: { input: (event) => { reason = event.target.value; } } });
    field.value = reason;
    return make("div", { class: "decide" },
      entry ? make("p", { class: "text", text: `Decided: ${word(entry)}${entry.reason ? `, ${entry.reason}` : ""}. A new decision replaces it.` }) : null,
      make("div", {}, make("label", { for: "reason" }, "Reason (optional) "), field, options),
      make("div", { class: "buttons", role: "group", "aria-label": `Decide${many}` },
        button("a", `Approve${many}`, "approve", () => decide("approve")),
        ...pack.categories.map((name, i) => button(i < 9 ? String(i + 1) : "", `Remove: ${name}`, "remove", () => decide("remove", name))),
        button("e", "Escalate", "", () => decide("escalate")), button("s", "Skip", "", skip),
        standing.size ? button("u", entry ? "Undo" : "Undo the last decision", "", undo) : null));
  }

  function members(item) {
    if (item.members.length < 2 && item.contents < 2) return null;
    const tile = (member, i) => {
      const toggle = make("button", {
        type: "button", class: "member", "aria-pressed": String(!leftOut.has(i)), title: spelled(member.uri), disabled: member.sha256 ? null : "",
        on: { click: () => { leftOut.has(i) ? leftOut.delete(i) : leftOut.add(i); detail(); at(`m${i}`).focus(); } }, id: `m${i}`,
      }, cover(member.cover ? { cover: member.cover } : null, member), make("span", { class: "text", text: short(member.uri) }), make("span", { class: "left-out" }, "left out"));
      return make("li", {}, toggle, i ? ask(item, i) : null);
    };
    const more = item.contents - item.members.length;
    return make("div", {}, make("h3", {}, `Decided together: ${item.members.length} contents that look alike`),
      more > 0 ? make("p", { class: "muted" }, `${more} more contents of this cluster are not in this pack, and are not decided here.`) : null,
      make("ul", { class: "covers", "aria-label": "Contents of the cluster; a pressed one is decided" }, ...item.members.map(tile)));
  }

  function facts(item) {
    const shown = item.facts.flatMap(([name, values]) => [make("dt", { text: name }), make("dd", {}, ...values.map((value) => make("div", { class: "text", text: value })))]);
    return make("div", {}, make("h3", {}, "Context"), make("dl", { class: "facts" }, ...shown));
  }

  /* Decisions. */
  const included = (item) => item.members.map((_, i) => i).filter((i) => item.members[i].sha256 && !leftOut.has(i));

  function decide(verdict, category = "") {
    const item = items[chosen], which = item ? included(item) : [];
    if (!item || !decidable(item)) return;
    if (!which.length) { warn("You left out every content: choose at least one."); return; }
    if (!named()) return;
    warn("");
    tick();
    const before = standing.get(chosen);
    write({
      verdict, category, reason: reason.trim(), members: which, opened, zoomed, seconds: Math.round(spent * 10) / 10,
      supersedes: which.map((i) => (before ? before.ids[before.members.indexOf(i)] ?? "" : "")),
    });
    const done = `${word(standing.get(chosen))}. `;
    const said = advance(chosen);
    say(done + said);
    suggest();
  }

  function write(values) {
    const members = values.members;
    const entry = { ...values, id: crypto.randomUUID(), item: chosen, turn: turn(), at: new Date().toISOString(), reviewer: at("reviewer").value.trim(), ids: members.map(() => crypto.randomUUID()) };
    take(entry);
    settle();
    keep(`entry/${entry.id}`, entry);
    if (lasting) localStorage.removeItem(`${PREFIX}downloaded`);
    return entry;
  }

  const turn = () => Math.max(Date.now(), ...inOrder().slice(-1).map((entry) => entry.turn + 1));

  function undo() {
    const which = standing.has(chosen) ? chosen : inOrder().findLast((entry) => standing.get(entry.item) === entry)?.item;
    if (which === undefined) { say("There is no decision to undo."); return; }
    choose(which);
    const undone = new Set(inOrder().filter((entry) => entry.verdict === "undo").flatMap((entry) => entry.supersedes));
    for (const entry of inOrder().filter((one) => one.item === which && one.verdict !== "undo")) {
      const left = entry.members.filter((_, i) => !undone.has(entry.ids[i]));
      if (left.length) write({ verdict: "undo", category: "", reason: "", members: left, opened, zoomed, seconds: 0, supersedes: left.map((i) => entry.ids[entry.members.indexOf(i)]) });
    }
    list();
    choose(which);
    say(`Undone. Item ${which + 1} is undecided: ${items[which].line}`);
  }

  function skip() {
    const said = advance(chosen);
    say(`Skipped. ${said}`);
  }

  function named() {
    if (at("reviewer").value.trim()) return true;
    warn("Write your name first: each verdict has the name of its reviewer.");
    at("reviewer").focus();
    return false;
  }

  /* The verdict file: a line for each content of each decision. */
  function lines() {
    return inOrder().flatMap((entry) => entry.members.map((member, i) => {
      const { uri, sha256 } = items[entry.item].members[member], item = items[entry.item];
      return JSON.stringify({
        id: entry.ids[i], uri, sha256, run_id: pack.run_id, model: item.model, policy: item.policy, verdict: entry.verdict, category: entry.category,
        reason: entry.reason, kind: item.kind, reviewer: entry.reviewer, decided_at: entry.at, seconds: entry.seconds, opened: entry.opened,
        zoomed: entry.zoomed, supersedes: entry.supersedes[i], probability: item.probability,
      });
    }));
  }

  function save(name, text, type) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = make("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  /* A line for each day on this page: what it cost, opens that no decision followed too. */
  function session_lines() {
    const decided = [...standing.values()];
    return [...earlier.values(), session].filter((one) => one.opens || one.seconds >= 1 || one.breaks.length).map((one) => {
      const then = decided.filter((entry) => entry.at.startsWith(one.day));
      return JSON.stringify({
        session: one.id, pack: pack.pack, run_id: pack.run_id, reviewer: at("reviewer").value.trim(), day: one.day, items: items.length, decided: then.length,
        unopened: then.filter((entry) => !entry.opened).length, opens: one.opens, seconds: Math.round(one.seconds), breaks: one.breaks, changes: one.changes, at: new Date().toISOString(),
      });
    });
  }

  function download() {
    if (!named()) return;
    const found = lines(), who = at("reviewer").value.trim().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
    if (!found.length) { warn("Nothing is decided yet."); return; }
    save(`verdicts-${pack.pack}-${who}.jsonl`, `${[...found, ...session_lines()].join("\n")}\n`, "application/jsonl");
    keep("downloaded", new Date().toISOString());
    say(`${found.length} verdicts downloaded. If you download again, the file has them again: an import takes each only once.`);
  }

  function download_session() {
    if (!named()) return;
    const found = session_lines();
    if (!found.length) { warn("Nothing was looked at yet."); return; }
    save(`session-${pack.pack}.jsonl`, `${found.join("\n")}\n`, "application/jsonl");
  }

  /* Opening an original: asked for, confirmed, and only then requested. */
  let asked = null;

  function confirm_open(item, member) {
    asked = { item, member };
    at("opening-title").textContent = "Show the original?";
    at("opening-text").replaceChildren(make_bdi(`${item.line}. ${item.members[member].uri}`));
    cover_again();
    at("opening").showModal();
    at("keep").focus();
  }

  function cover_again() {
    at("shown").replaceChildren();
    at("shown").className = "";
    at("shown").hidden = true;
    at("show").hidden = false;
    at("keep").textContent = "Keep it covered";
    for (const id of ["colour", "zoom"]) at(id).hidden = true;
  }

  function show() {
    if (!asked) return;
    const { item, member } = asked;
    opened = true;
    session.opens += 1;
    session.since.opens += 1;
    keep("session", session);
    at("show").hidden = true;
    at("keep").textContent = "Cover it again";
    at("shown").hidden = false;
    at("opening-title").textContent = "The original";
    const grey = item.shield !== "none";
    at("shown").classList.toggle("grey", grey);
    at("colour").hidden = !grey;
    at("zoom").hidden = false;
    at("keep").focus();
    const pictures = member === 0 ? item.views.filter((view) => view.picture) : [];
    if (pictures.length > 1) return frames(pictures, item);
    uncover(pictures[0]?.picture ?? item.members[member].original, item, pictures[0] ?? (member === 0 ? item.views[0] : undefined) ?? { parts: item.members[member].parts });
    counts();
  }

  function frames(pictures, item) {
    const buttons = pictures.map((view) => make("button", { type: "button", text: view.at_s === null ? `page ${view.index + 1}` : `at ${clock(view.at_s)}`, on: { click: () => { at("shown").lastChild.remove(); uncover(view.picture, item, view); } } }));
    at("shown").append(make("div", { class: "buttons" }, ...buttons), make("p", {}, "Choose what to look at."));
  }

  function uncover(address, item, view) {
    const failed = () => at("shown").replaceChildren(make("p", { text: "The original cannot be shown: it is gone, the link has expired, or this browser does not know its format." }));
    const is_video = item.media === "video" && !view?.picture;
    const shown = is_video ? make("video", { controls: "", muted: "", preload: "metadata", on: { error: failed } }) : make("img", { alt: "The original", referrerpolicy: "no-referrer", on: { error: failed } });
    if (is_video) shown.muted = true;  // the attribute counts for a parser alone
    if (is_video && view?.at_s) shown.addEventListener("loadedmetadata", () => { shown.currentTime = view.at_s; }, { once: true });
    shown.src = address;
    const parts = (view?.parts ?? []).map((part) => {
      const covered = make("button", { type: "button", class: "part", title: spelled(part.label), "aria-label": `Uncover ${spelled(part.label)}`, on: { click: () => covered.remove() } }, make_bdi(part.label));
      for (const [side, share] of Object.entries(part.box)) covered.style[side] = `${share * 100}%`;
      return covered;
    });
    at("shown").append(make("div", {}, make("div", { class: "frame" }, ...parts, shown), maps(address, view, shown)));
  }

  /* Maps of an original that is shown already: for the eye, beside it, and never before it. */
  const MAPS = {
    "": ["The picture", ""],
    error_levels: ["Error levels", "How much each place changes when the picture is saved as a JPEG once more. A part that is much lighter than others like it (an edge beside edges, a sky beside sky) may have been put in later. Edges, fine texture, text and strong colours are light in every picture, and a picture that was sent on, resized or saved again may be dark all over, whatever was done to it before."],
    double_quantisation: ["Compressed twice", "This JPEG was one before, at a lower quality. Dark: compressed twice. Light: once, so it may have been put in between. Grey: nothing to tell by. Pure white, pure black, and the edges of bright things are often light without harm. A picture that was cropped or resized after its first compression has no such map."],
  };

  function maps(address, view, shown) {
    if (!Object.keys(view?.maps ?? {}).length) return null;
    const words = make("p", { class: "about", role: "status" });
    const missing = view.maps.double_quantisation ? "" : " There is no map of double compression: the file is no JPEG, or all of it looks as compressed once.";
    const button = ([name, [label, meaning]]) => make("button", { type: "button", text: label, "aria-pressed": String(!name), on: { click: (event) => {
      for (const one of event.currentTarget.parentElement.children) one.setAttribute("aria-pressed", String(one === event.currentTarget));
      shown.src = name ? view.maps[name] : address;
      shown.alt = name ? label : "The original";
      words.textContent = meaning && `${meaning}${missing} A map proves nothing: it is a reason to look closer, or to ask somebody who knows.`;
    } } });
    const offered = Object.entries(MAPS).filter(([name]) => !name || view.maps[name]);
    return make("div", {}, make("div", { class: "buttons", role: "group", "aria-label": "What is shown" }, ...offered.map(button)), words);
  }

  /* Time, opens, and breaks. */
  function tick() {
    const now = Date.now(), passed = Math.min(5, (now - ticked) / 1000);
    ticked = now;
    if (session.day !== today()) {
      earlier.set(session.day, session);
      keep(`session/${session.day}`, session);
      session = begin(session.since);
    }
    if (document.hidden || now - active > IDLE_S * 1000) return;
    spent += passed;
    session.seconds += passed;
    session.since.seconds += passed;
  }

  function suggest() {
    if (session.since.opens < (pack.break_opens ?? BREAK_OPENS) && session.since.seconds < BREAK_S) return;
    const why = `You have opened ${session.since.opens} originals in ${Math.round(session.since.seconds / 60)} minutes since the last break.`;
    const answer = (list, taken) => () => {
      session[list].push({ at: new Date().toISOString(), opens: session.since.opens, seconds: session.since.seconds, taken });
      session.since = { opens: 0, seconds: 0 };
      keep("session", session);
      warn("");
    };
    warn(why);
    at("warning").append(" Take a break of some minutes, or change to an easier queue. ", make("button", { type: "button", text: "I took a break", on: { click: answer("breaks", true) } }), " ",
      make("button", { type: "button", text: "I will change the queue", on: { click: answer("changes", true) } }), " ", make("button", { type: "button", text: "Not now", on: { click: answer("breaks", false) } }));
  }

  /* Keys. */
  const ACTIONS = {
    a: () => decide("approve"), e: () => decide("escalate"), s: skip, u: undo, j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
    PageDown: () => move(10), PageUp: () => move(-10), Home: () => move(-items.length), End: () => move(items.length),
    n: () => say(advance(chosen)), r: () => at("reason")?.focus(), o: () => at("detail").querySelector(".covers li button:not(.member)")?.click(), "?": () => at("keys-help").showModal(),
  };

  function on_key(event) {
    active = Date.now();
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape" || (event.key === "Enter" && ["reason", "reviewer"].includes(event.target.id))) at("list").focus();
      return;
    }
    const moves = /^(Arrow|Page|Home|End)/.test(event.key);
    if (event.repeat && !moves && event.key !== "Tab") { event.preventDefault(); return; }  // a key that is held down decides once
    if (event.key === "Escape") { at("list").focus(); return; }
    if (event.key === "Enter" && event.target === at("list")) { event.preventDefault(); at("detail").querySelector("h2")?.focus(); return; }
    if (moves ? event.target.closest("#detail") : !at("keys").checked) return;
    const digit = /^[1-9]$/.test(event.key) ? pack.categories[Number(event.key) - 1] : undefined;
    const act = digit !== undefined ? () => decide("remove", digit) : ACTIONS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  document.addEventListener("keydown", on_key);
  document.addEventListener("pointermove", () => { active = Date.now(); });
  at("list").addEventListener("scroll", rows);
  addEventListener("resize", rows);
  at("filter").addEventListener("change", () => { list(); choose(listed[0] ?? chosen); });
  at("reviewer").addEventListener("input", () => { keep("reviewer", at("reviewer").value); warn(""); });
  at("download").addEventListener("click", download);
  at("session").addEventListener("click", download_session);
  at("help").addEventListener("click", ACTIONS["?"]);
  at("keys-close").addEventListener("click", () => at("keys-help").close());
  at("keep").addEventListener("click", () => { cover_again(); at("opening").close(); });
  at("show").addEventListener("click", show);
  at("colour").addEventListener("click", () => at("shown").classList.toggle("grey"));
  at("zoom").addEventListener("click", () => { zoomed = true; at("shown").classList.toggle("zoomed"); });
  at("opening").addEventListener("cancel", cover_again);  // at once: "close" comes later
  at("opening").addEventListener("close", () => { cover_again(); asked = null; at("list").focus(); });
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(`${PREFIX}entry/`) && event.newValue) { take(JSON.parse(event.newValue)); settle(); list(); detail(); }
  });
  at("keys-list").append(...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", { text: what })]));
  setInterval(() => { tick(); keep("session", session); counts(); }, 5000);
  load();
  chosen = Math.max(0, items.findIndex((item, i) => !standing.has(i) && decidable(item)));
  list();
  choose(chosen);
})();
