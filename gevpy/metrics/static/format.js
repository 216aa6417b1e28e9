// Numbers as people read them: three digits that matter, and a unit. Nothing here knows of the page.
"use strict";

const format = (() => {
  const SPACE = "\u202f"; // narrow, and never broken
  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

  // Three digits that matter, without zeros that say nothing.
  const digits = (n) => String(Number(n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : n.toFixed(0)));

  const scaled = (n, base, units) => {
    let step = 0;
    while (Math.abs(n) >= base * 0.9995 && step < units.length - 1) {
      n /= base;
      step += 1;
    }
    return digits(n) + (units[step] && SPACE + units[step]);
  };

  const known = (write) => (n) => (n === null || n === undefined || Number.isNaN(n) ? "–" : write(n));

  const count = known((n) => (Math.abs(n) < 99_999.5 ? grouped.format(n) : scaled(n, 1000, ["", "k", "M", "G", "T"])));
  const bytes = known((n) => scaled(Math.round(n), 1024, ["B", "KiB", "MiB", "GiB", "TiB"]));
  const rate = known((n) => (n < 100 ? digits(Number(n.toFixed(1))) : count(n)));
  const perSecond = (write) => known((n) => write(n) + "/s");

  const delay = known((s) =>
    s === 0 ? "0" + SPACE + "ms" : s < 0.9995 ? digits(Number((s * 1000).toFixed(s < 0.01 ? 1 : 0))) + SPACE + "ms" : digits(s) + SPACE + "s",
  );

  const PARTS = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const span = known((s) => {
    s = Math.max(0, Math.floor(s));
    const first = PARTS.findIndex(([size]) => s >= size);
    if (first < 0) {
      return "0" + SPACE + "s";
    }
    return PARTS.slice(first, first + 2)
      .map(([size, name], at) => [Math.floor(at ? (s % PARTS[first][0]) / size : s / size), name])
      .filter(([n], at) => at === 0 || n > 0)
      .map(([n, name]) => n + SPACE + name)
      .join(" ");
  });

  const two = (n) => String(n).padStart(2, "0");
  const minute = (t) => {
    const date = new Date(t * 1000);
    return two(date.getHours()) + ":" + two(date.getMinutes());
  };
  const clock = (t) => minute(t) + ":" + two(new Date(t * 1000).getSeconds());

  return {
    count,
    bytes,
    rate,
    delay,
    span,
    minute,
    clock,
    messagesPerSecond: perSecond(rate),
    bytesPerSecond: perSecond(bytes),
  };
})();
