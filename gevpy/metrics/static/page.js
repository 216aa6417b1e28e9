// The live page: asks for stats.json each second, keeps the last five minutes, and shows them.
// What comes from the server goes into the page as text, never as markup.
"use strict";

(() => {
  const POLL_MS = 1000;
  const PATIENCE_MS = 4000;
  const RELOAD_MS = 2000;
  const BAD = ["failed", "backing off"];

  const $ = (id) => document.getElementById(id);

  const make = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

  const put = (element, text) => {
    if (element.textContent !== text) {
      element.textContent = text;
    }
  };

  const mood = (state) => (state === "ready" ? "good" : BAD.includes(state) ? "bad" : "warn");

  const plural = (n, word) => format.count(n) + " " + word + (n === 1 ? "" : "s");

  const { sum } = charts;

  // ---- what is kept ----------------------------------------------------------------------------

  const points = []; // see charts.js; with neither total nor workers while the server is away
  let latest = null; // the last document
  let awaySince = null;

  // The figures of one worker, or of all: gauges as they are, counters as rates since `before`.
  const figures = (now, before, seconds) => {
    const rate = (key) => (before && seconds > 0 && now[key] >= before[key] ? (now[key] - before[key]) / seconds : null);
    return {
      connections: now.connections,
      messagesIn: rate("received_messages"),
      messagesOut: rate("sent_messages"),
      bytesIn: rate("received_bytes"),
      bytesOut: rate("sent_bytes"),
      read: now.read_buffer_bytes,
      write: now.write_buffer_bytes,
      lag: now.lag_s,
      restarts: now.restarts,
    };
  };

  // The figures of a place that two processes share, while one takes over from the other.
  const together = (one, other) => ({
    connections: one.connections + other.connections,
    messagesIn: sum(one.messagesIn, other.messagesIn),
    messagesOut: sum(one.messagesOut, other.messagesOut),
    bytesIn: sum(one.bytesIn, other.bytesIn),
    bytesOut: sum(one.bytesOut, other.bytesOut),
    read: one.read + other.read,
    write: one.write + other.write,
    lag: Math.max(one.lag, other.lag),
    restarts: Math.max(one.restarts, other.restarts),
  });

  const slowest = (workers) => workers.reduce((worst, each) => (each.lag_s > worst.lag_s ? each : worst), workers[0]);

  const pointOf = (doc, t) => {
    const same = latest !== null && awaySince === null && latest.started_at === doc.started_at ? latest : null;
    const seconds = same ? doc.now - same.now : 0;
    const earlier = new Map(same ? same.workers.map((each) => [each.pid, each]) : []);
    const processes = doc.workers.map((each) => figures(each, each.pid ? earlier.get(each.pid) : null, seconds));
    const workers = new Map();
    doc.workers.forEach(({ id }, at) => {
      workers.set(id, workers.has(id) ? together(workers.get(id), processes[at]) : processes[at]);
    });
    const whole = { ...doc.total, restarts: doc.restarts, lag_s: slowest(doc.workers)?.lag_s ?? null };
    return { t, total: figures(whole, same && same.total, seconds), workers, processes };
  };

  const keep = (point) => {
    points.push(point);
    while (points[0].t < point.t - charts.WINDOW_S - 2) {
      points.shift();
    }
  };

  // ---- tiles -----------------------------------------------------------------------------------

  const tile = (name, value, ...notes) => {
    put($("tile-" + name), value);
    put($("note-" + name), notes.join("\n"));
  };

  const sumOf = (workers, key) => workers.reduce((all, each) => all + each[key], 0);

  const showTiles = ({ total, workers, restarts }, now) => {
    const perSecond = format.messagesPerSecond;
    const bytesPerSecond = format.bytesPerSecond;
    const memory = sumOf(workers, "rss_bytes") || null;
    tile("connections", format.count(total.connections), format.count(total.opened), "since the start");
    tile(
      "messages",
      perSecond(sum(now.messagesIn, now.messagesOut)),
      "in " + perSecond(now.messagesIn),
      "out " + perSecond(now.messagesOut),
    );
    tile(
      "bytes",
      bytesPerSecond(sum(now.bytesIn, now.bytesOut)),
      "in " + bytesPerSecond(now.bytesIn),
      "out " + bytesPerSecond(now.bytesOut),
    );
    tile("lag", format.delay(now.lag), workers.length > 1 ? "the worst: worker " + slowest(workers).id : "of the last tick");
    tile(
      "buffers",
      format.bytes(sum(now.read, now.write)),
      format.bytes(now.read) + " not handled",
      format.bytes(now.write) + " not sent",
    );
    tile("memory", format.bytes(memory), "resident", "in " + plural(workers.length, "worker"));
    tile("restarts", format.count(restarts), "of workers", "since the start");
    tile(
      "errors",
      format.count(total.handler_errors),
      plural(total.dropped_messages, "message") + " dropped",
      plural(total.rejected, "peer") + " turned away",
    );
  };

  // ---- the table -------------------------------------------------------------------------------

  // A figure that workers and the total write alike, from what a point holds of them.
  const alike = (heading, write, value) => [heading, (_, f) => write(value(f)), (_, f) => write(value(f))];

  // A key of the document that is added up for the total.
  const added = (heading, write, key) => [heading, (w) => write(w[key]), (doc) => write(sumOf(doc.workers, key))];

  // heading, what a worker's cell says, what the cell of the total says
  const COLUMNS = [
    ["Worker", (w) => String(w.id), () => "Total"],
    ["State", (w) => w.state, () => ""],
    ["Process", (w) => String(w.pid || "–"), () => ""],
    ["Up", (w) => format.span(w.uptime_s), (doc) => format.span(doc.now - doc.started_at)],
    alike("Open", format.count, (f) => f.connections),
    alike("Messages in", format.messagesPerSecond, (f) => f.messagesIn),
    alike("out", format.messagesPerSecond, (f) => f.messagesOut),
    alike("Bytes in", format.bytesPerSecond, (f) => f.bytesIn),
    alike("out", format.bytesPerSecond, (f) => f.bytesOut),
    alike("Lag", format.delay, (f) => f.lag),
    added("Blocked", format.delay, "blocked_s"),
    alike("Buffers", format.bytes, (f) => sum(f.read, f.write)),
    added("Memory", format.bytes, "rss_bytes"),
    ["Errors", (w) => format.count(w.handler_errors), (doc) => format.count(doc.total.handler_errors)],
    ["Restarts", (w) => format.count(w.restarts), (doc) => format.count(doc.restarts)],
  ];

  const emptyRow = () => {
    const row = make("tr");
    row.append(Object.assign(make("th"), { scope: "row" }), ...COLUMNS.slice(1).map(() => make("td")));
    return row;
  };

  const showTable = (doc, point) => {
    const body = $("rows");
    while (body.rows.length > doc.workers.length) {
      body.deleteRow(-1);
    }
    while (body.rows.length < doc.workers.length) {
      body.append(emptyRow());
    }
    doc.workers.forEach((worker, at) => {
      const { cells } = body.rows[at];
      COLUMNS.forEach(([, write], column) => put(cells[column], write(worker, point.processes[at])));
      cells[1].className = mood(worker.state);
    });
    COLUMNS.forEach(([, , write], column) => put($("sums").cells[column], write(doc, point.total)));
    document.body.classList.toggle("many", point.workers.size > 1);
  };

  // ---- the line that says how it is ------------------------------------------------------------

  const say = (kind, state, facts) => {
    $("status").className = kind;
    put($("state"), state);
    put($("facts"), facts);
    document.body.classList.toggle("away", awaySince !== null);
  };

  const showState = (doc) => {
    const where = doc.addresses.join(", ") || location.host;
    const wrong = doc.workers.filter((each) => each.state !== "ready").length;
    const workers = plural(doc.workers.length, "worker") + (wrong ? ", " + wrong + " not ready" : "");
    const up = "up " + format.span(doc.now - doc.started_at);
    put($("where"), where);
    say(doc.state === "ready" && wrong ? "warn" : mood(doc.state), doc.state, [up, workers, "gevpy " + doc.version].join(" · "));
    document.title = where + " · gevpy, live";
  };

  const showAway = (t, why) => {
    awaySince ??= t;
    say("bad", "away", why + " since " + format.clock(awaySince) + ". Asking again each second.");
    document.title = "(away) " + ($("where").textContent || location.host) + " · gevpy, live";
  };

  // ---- asking ----------------------------------------------------------------------------------

  const ask = async () => {
    const answer = await fetch("stats.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return answer.ok ? [await answer.json(), ""] : [null, "Only status " + answer.status];
  };

  const show = (doc, t) => {
    const point = pointOf(doc, t);
    keep(point);
    latest = doc;
    awaySince = null;
    showState(doc);
    showTiles(doc, point.total);
    showTable(doc, point);
  };

  const begin = () => {
    const drawFor = charts.create($("charts"), points, (t) => {
      put($("when"), t === null ? "Last 5 minutes" : "At " + format.clock(t));
    });
    const draw = () => {
      const ids = latest === null ? [] : [...new Set(latest.workers.map((each) => each.id))].sort((a, b) => a - b);
      const view = document.querySelector("[name=view]:checked").value;
      drawFor(view === "workers" && ids.length > 1 ? ids : null);
    };
    const poll = async () => {
      const began = performance.now();
      const [doc, why] = await ask().catch(() => [null, "No answer"]);
      const t = Date.now() / 1000;
      setTimeout(poll, Math.max(0, POLL_MS - (performance.now() - began)));
      if (doc === null) {
        showAway(t, why);
        keep({ t, total: {}, workers: new Map() });
      } else {
        show(doc, t);
      }
      draw();
    };
    $("columns").append(...COLUMNS.map(([heading]) => Object.assign(make("th", heading), { scope: "col" })));
    $("sums").replaceWith(Object.assign(emptyRow(), { id: "sums" }));
    $("view").addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
    poll();
  };

  if (typeof uPlot === "undefined") {
    // The port serves few at a time: a part of the page may have been turned away.
    say("bad", "incomplete", "Not all of this page has arrived. Loading it again.");
    setTimeout(() => location.reload(), RELOAD_MS);
  } else {
    begin();
  }
})();
