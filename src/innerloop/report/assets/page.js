"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)");
  const drawn = new Map();

  // Colours are names of the style sheet, so that a chart follows the page from light to dark.
  const resolve = (value, key, styles) => {
    if (typeof value === "string") {
      const named = /color/i.test(key) && /^var\((--[a-z-]+)\)$/.exec(value);
      return named ? styles.getPropertyValue(named[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((part) => resolve(part, key, styles));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, resolve(part, name, styles)]));
    }
    return value;
  };

  const themed = (layout, styles, width) => {
    const ink = styles.getPropertyValue("--ink").trim();
    const soft = styles.getPropertyValue("--ink-soft").trim();
    const rule = styles.getPropertyValue("--rule").trim();
    const surface = styles.getPropertyValue("--surface").trim();
    const narrow = width < 480;
    const full = {
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: narrow ? 46 : 58, r: 14, t: 10, b: 44 },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", traceorder: "normal", font: { size: 11 } },
      hoverlabel: { bgcolor: surface, bordercolor: rule, font: { color: ink } },
      hovermode: "closest",
      dragmode: coarse.matches ? false : "zoom",
      ...layout,
      width,
    };
    for (const name of Object.keys(full).filter((key) => /^[xy]axis\d*$/.test(key))) {
      const title = full[name].title || {};
      full[name] = {
        gridcolor: rule,
        zerolinecolor: rule,
        linecolor: rule,
        tickfont: { color: soft, size: 11 },
        automargin: true,
        ...full[name],
        title: { font: { size: 12, color: soft }, standoff: 8, ...title },
      };
    }
    return full;
  };

  const draw = (place) => {
    try {
      const chart = drawn.get(place) || JSON.parse(document.getElementById(`data-${place.id}`).textContent);
      const styles = getComputedStyle(document.documentElement);
      const width = Math.floor(place.clientWidth);
      const layout = themed(resolve(chart.layout, "", styles), styles, width);
      // On a phone the legend is a column, which must not take its room from the curves.
      const named = chart.data.filter((trace) => trace.name && trace.showlegend !== false).length;
      if (width < 480 && named > 2) layout.height += 19 * (named - 1);
      const options = { displaylogo: false, displayModeBar: false, staticPlot: false };
      Plotly.react(place, resolve(chart.data, "", styles), layout, options);
      drawn.set(place, chart);
      place.dataset.drawn = "yes";
    } catch (error) {
      place.textContent = "This chart could not be drawn; its numbers are in the table below.";
      console.error(`${place.id}: ${error}`);
    }
  };

  const plots = [...document.querySelectorAll(".plot[id]")];
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
      }
    },
    { rootMargin: "300px" },
  );
  plots.forEach((place) => observer.observe(place));

  const again = () => drawn.forEach((_, place) => draw(place));
  let width = window.innerWidth;
  let timer = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(again, 120);
  });
  dark.addEventListener("change", again);

  // On paper everything is open, light, and as wide as a sheet.
  const folded = new Set();
  const print = (on) => {
    if (document.documentElement.classList.contains("on-paper") === on) return;
    document.documentElement.classList.toggle("on-paper", on);
    for (const part of document.querySelectorAll("details:not(.numbers)")) {
      if (on && !part.open) {
        folded.add(part);
        part.open = true;
      } else if (!on && folded.delete(part)) {
        part.open = false;
      }
    }
    (on ? plots : [...drawn.keys()]).forEach(draw);
  };
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
  paper.addEventListener("change", (event) => print(event.matches));

  const select = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        select(code);
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1600);
    });
  }

  const open = () => {
    const part = location.hash && document.getElementById(location.hash.slice(1));
    for (let node = part; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  };
  window.addEventListener("hashchange", open);
  open();
})();
