// The charts: which there are, how uPlot draws them, and what their captions say.
// They draw an array of points, {t, total, workers: Map(id, figures)}, that the page adds to; oldest first.
"use strict";

const charts = (() => {
  const WINDOW_S = 300;
  const LINES = 8;
  const STEPS = [1, 2, 5];

  const sum = (a, b) => (a === null || b === null || a === undefined || b === undefined ? null : a + b);

  // title, how to write a value, the least top of its axis, the lines of the total, the line of a worker
  const KINDS = [
    ["Connections", format.count, 4, [["open", "--one", (f) => f.connections]], (f) => f.connections],
    [
      "Messages per second",
      format.rate,
      10,
      [["in", "--in", (f) => f.messagesIn], ["out", "--out", (f) => f.messagesOut]],
      (f) => sum(f.messagesIn, f.messagesOut),
    ],
    [
      "Bytes per second",
      format.bytes,
      1024,
      [["in", "--in", (f) => f.bytesIn], ["out", "--out", (f) => f.bytesOut]],
      (f) => sum(f.bytesIn, f.bytesOut),
    ],
    ["Loop lag", format.delay, 0.01, [["worst worker", "--one", (f) => f.lag]], (f) => f.lag],
    [
      "Bytes in buffers",
      format.bytes,
      1024,
      [["read, not handled", "--in", (f) => f.read], ["not sent yet", "--out", (f) => f.write]],
      (f) => sum(f.read, f.write),
    ],
    ["Restarts", format.count, 4, [["since the start", "--one", (f) => f.restarts]], (f) => f.restarts],
  ];

  const make = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A round number not below n, in the steps of its unit: so the axis changes seldom.
  const roundUp = (n, base) => {
    let unit = 1;
    while (unit * base <= n) {
      unit *= base;
    }
    const size = unit * 10 ** Math.floor(Math.log10(Math.max(n / unit, 1e-9)));
    return size * [1, 1.5, 2, 3, 4, 6, 8, 10].find((step) => step * size >= n * 0.999);
  };

  const incrementsOf = (write) => {
    if (write === format.bytes) {
      return Array.from({ length: 50 }, (_, power) => 2 ** power);
    }
    const least = write === format.delay ? -3 : 0;
    return Array.from({ length: 45 }, (_, at) => STEPS[at % 3] * 10 ** (least + Math.floor(at / 3)));
  };

  const optionsOf = (write, least, lines, points, setCursor) => {
    const grid = { stroke: color("--grid"), width: 1 };
    const axis = { stroke: color("--soft"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
    const base = write === format.bytes ? 1024 : 1000;
    const end = () => (points.length ? points[points.length - 1].t : Date.now() / 1000);
    return {
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "gevpy" }, points: { size: 6 } },
      scales: {
        x: { time: true, range: () => [end() - WINDOW_S, end()] },
        y: { range: (_, __, most) => [0, Math.max(least, roundUp(most || 0, base))] },
      },
      axes: [
        { ...axis, incrs: [60, 120, 300], space: 34, size: 26, values: (_, times) => times.map(format.minute) },
        { ...axis, incrs: incrementsOf(write), space: 32, size: 64, gap: 6, values: (_, marks) => marks.map(write) },
      ],
      series: [{}].concat(
        lines.map(([, name]) => ({
          stroke: color(name),
          width: 1.75,
          fill: lines.length === 1 ? color(name) + "1c" : undefined,
          points: { show: false },
        })),
      ),
      hooks: { setCursor: [setCursor] },
    };
  };

  class Chart {
    constructor([title, write, least, totals, ofWorker], points, onPoint) {
      this.write = write;
      this.least = least;
      this.totals = totals.map(([label, name, of]) => [label, name, (point) => of(point.total)]);
      this.ofWorker = ofWorker;
      this.points = points;
      this.onPoint = onPoint;
      this.plot = null;
      this.list = make("ul");
      this.place = Object.assign(make("div"), { className: "plot" });
      this.figure = make("figure");
      const caption = make("figcaption");
      caption.append(make("h3", title), this.list);
      this.figure.append(caption, this.place);
      new ResizeObserver(() => this.fit()).observe(this.place);
    }

    // Begin anew: with one line for each of these workers, or, for null, with those of the total.
    build(ids) {
      this.lines = ids === null ? this.totals : ids.map((id, at) => this.lineOf(id, at));
      this.list.className = ids === null ? "" : "each";
      this.outputs = this.lines.map(() => make("output", "–"));
      this.list.replaceChildren(...this.lines.map(([label, name], at) => this.entry(label, name, this.outputs[at])));
      if (this.plot !== null) {
        this.plot.destroy();
      }
      const options = optionsOf(this.write, this.least, this.lines, this.points, this.onPoint);
      this.plot = new uPlot({ ...options, ...this.size() }, this.data(), this.place);
      this.readOut();
    }

    lineOf(id, at) {
      const value = (point) => (point.workers.has(id) ? this.ofWorker(point.workers.get(id)) : null);
      return ["#" + id, "--line-" + (at % LINES), value];
    }

    entry(label, name, output) {
      const mark = make("i");
      mark.style.background = color(name);
      const item = make("li");
      item.append(mark, label + " ", output);
      return item;
    }

    data() {
      const of = (value) => (point) => value(point) ?? null;
      return [this.points.map((point) => point.t), ...this.lines.map(([, , value]) => this.points.map(of(value)))];
    }

    draw() {
      this.plot.setData(this.data());
      this.readOut();
    }

    // The point under the mouse, or else the last one.
    pointed() {
      return this.points[this.plot.cursor.idx ?? -1] ?? this.points[this.points.length - 1];
    }

    readOut() {
      const point = this.pointed();
      this.outputs.forEach((output, line) => {
        output.textContent = this.write(point ? this.lines[line][2](point) : null);
      });
    }

    size() {
      return { width: this.place.clientWidth, height: this.place.clientHeight };
    }

    fit() {
      const { width, height } = this.size();
      if (this.plot !== null && width > 0 && (width !== this.plot.width || height !== this.plot.height)) {
        this.plot.setSize({ width, height });
      }
    }
  }

  // Make the charts inside `place`. What is returned draws them: for each of these workers, or, for null, in total.
  // `onTime` is told the time that the mouse points at, or null.
  const create = (place, points, onTime) => {
    const all = [];
    const onPoint = (plot) => {
      if (all.every((chart) => chart.plot !== null)) {
        all.forEach((chart) => chart.readOut());
        const point = plot.cursor.left >= 0 ? points[plot.cursor.idx ?? -1] : undefined;
        onTime(point ? point.t : null);
      }
    };
    all.push(...KINDS.map((kind) => new Chart(kind, points, onPoint)));
    place.append(...all.map((chart) => chart.figure));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    let built = null; // the workers and the colours that they were built for
    return (ids) => {
      const wanted = JSON.stringify([ids, dark.matches]);
      all.forEach((chart) => (wanted === built ? chart.draw() : chart.build(ids)));
      built = wanted;
    };
  };

  return { create, sum, WINDOW_S };
})();
