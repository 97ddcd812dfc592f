"""Checks the built documentation as readers meet it; `.ci/run` calls it after `mkdocs build`.

    python docs/check_pages.py [SITE] [--browser PATH]

Always: every link inside the site, with its anchor, and every image has a target; images have a text; nothing is loaded
from another host; no formula is left in TeX. Where Chromium, Chrome or Firefox is found, every page is opened in it
without a window, at 400 and 1,300 pixels, in light and dark: no page is wider than the screen, whatever is wider than
its place scrolls inside itself, images are drawn, formulas have a size, text stands out from its background, scripts
have no errors, nothing comes from another host, and the search finds something. Where there is none, it says so.
"""

import argparse
import functools
import html.parser
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

WIDTHS = (400, 1300)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox", "firefox-esr")
SECONDS = 900


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", nargs="?", default="site", type=Path, help="the folder that MkDocs built")
    parser.add_argument("--browser", default=None, help="a Chromium or Firefox; default: one that is on the path")
    args = parser.parse_args()
    problems = check_files(args.site)
    browser = args.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("No browser found: layout, colours, formulas and search were NOT checked, only links, images and hosts.")
    else:
        problems += check_in_browser(args.site, browser)
    print(*problems, sep="\n")
    number = len(list(pages(args.site)))
    print(f"{number} pages, {len(problems)} problems" + (f", in {browser}." if browser else "."))
    return bool(problems)


def pages(site: Path):
    return (path for path in sorted(site.rglob("*.html")) if path.name != "404.html")


class Page(html.parser.HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.loaded: list[str] = []
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if tag in ("script", "img", "iframe", "source") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and not {"canonical", "prev", "next"} & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        self.formulas += "arithmatex" in values.get("class", "")


def check_files(site: Path) -> list[str]:
    """One line for every problem that shows without a browser."""
    parsed = {path: Page(path.read_text()) for path in pages(site)}
    if not parsed:
        return [f"{site}: no pages. Build them with `mkdocs build`."]
    problems = []
    for path, page in parsed.items():
        name = path.relative_to(site)
        for url in page.loaded:
            if urllib.parse.urlsplit(url).netloc:
                problems.append(f"{name}: loads {url} from another host")
            elif not (_target(site, path, url) or path).exists():
                problems.append(f"{name}: loads {url}, which is not there")
        for image in page.images:
            if not image.get("alt"):
                problems.append(f"{name}: the image {image.get('src')} has no text")
        for url in page.links:
            target = _target(site, path, url)
            fragment = urllib.parse.unquote(urllib.parse.urlsplit(url).fragment)
            if target is None:
                continue
            if not target.exists():
                problems.append(f"{name}: links to {url}, which is not there")
            elif fragment and target in parsed and fragment not in parsed[target].ids:
                problems.append(f"{name}: links to {url}, where there is no such anchor")
        if page.formulas:
            problems.append(f"{name}: {page.formulas} formulas are left in TeX")
    return problems


def _target(site: Path, page: Path, url: str) -> Path | None:
    """The file that a link within the site leads to; `None` for one that leads elsewhere."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = urllib.parse.unquote(parts.path)
    target = page if not path else site / path.lstrip("/") if path.startswith("/") else page.parent / path
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target


def check_in_browser(site: Path, browser: str) -> list[str]:
    """One line for every problem that the browser reports."""
    urls = [f"/{path.relative_to(site).as_posix()}" for path in pages(site)]
    reported, problems = threading.Event(), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/__check__.html":
                self._send(_CHECK.replace("PAGES", json.dumps(urls)).replace("WIDTHS", json.dumps(WIDTHS)))
            elif self.path.split("?")[0].endswith(".html"):
                text = (site / urllib.parse.unquote(self.path.split("?")[0]).lstrip("/")).read_text()
                self._send(text.replace("<head>", f"<head><script>{_LISTEN}</script>", 1))
            else:
                super().do_GET()

        def do_POST(self):
            problems.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._send("")
            reported.set()

        def _send(self, text: str):
            data = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        address = f"http://127.0.0.1:{server.server_address[1]}/__check__.html"
        if "firefox" in Path(browser).name:
            options = ["--headless", "--no-remote", "--profile", folder]
        else:
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
            options += ["--window-size=1400,1000", "--disable-dev-shm-usage"]
        with (Path(folder) / "browser.log").open("w+") as log:
            process = subprocess.Popen([browser, *options, address], stdout=log, stderr=log)
            try:
                waited = 0
                while not reported.wait(1) and process.poll() is None and waited < SECONDS:
                    waited += 1
            finally:
                process.terminate()
                process.wait()
                server.shutdown()
                server.server_close()
            if not reported.is_set():
                log.seek(0)
                problems.append(f"{browser} gave no report within {waited} s. It said:\n{log.read()[-2000:]}")
    return problems


_LISTEN = """window.__errors = [];
addEventListener("error", e => window.__errors.push(e.message || `cannot load ${e.target.src || e.target.href}`), true);
addEventListener("unhandledrejection", e => window.__errors.push(String(e.reason)));"""

# Opens one page after the other in a frame, as wide as the screen is to be, and posts what is wrong.
_CHECK = """<!doctype html><meta charset="utf-8"><body style="margin: 0"><script>
const sleep = ms => new Promise(done => setTimeout(done, ms));
const problems = [];
async function open(page, width) {
  document.querySelector("iframe")?.remove();
  const frame = document.createElement("iframe");
  frame.style = `border: 0; height: 900px; width: ${width}px`;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = page;
  document.body.append(frame);
  await loaded;
  await sleep(150);
  return frame.contentWindow;
}
function scrolls(element, view) {
  for (let e = element; e && e !== view.document.body; e = e.parentElement)
    if (["auto", "scroll", "hidden"].includes(view.getComputedStyle(e).overflowX)) return true;
  return false;
}
function luminance(color) {
  const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function look(view, say) {
  const root = view.document;
  if (root.scrollingElement.scrollWidth > view.innerWidth)
    say(`the page is ${root.scrollingElement.scrollWidth} pixels wide`);
  const article = root.querySelector("article") || root.body;
  for (const e of article.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > view.innerWidth + 1 && !scrolls(e, view)) {
      say(`<${e.tagName.toLowerCase()}> ends at ${Math.round(box.right)} pixels: ${e.textContent.slice(0, 50)}`);
      break;
    }
  }
  for (const e of article.querySelectorAll("img")) {
    e.loading = "eager";
    if (e.complete && !e.naturalWidth) say(`the image ${e.src} is broken`);
  }
  for (const e of article.querySelectorAll("math"))
    if (e.closest("details:not([open])") === null && !(e.getBoundingClientRect().width > 0))
      say(`the formula ${e.getAttribute("alttext")} has no size`);
  const style = view.getComputedStyle(root.body), pair = [luminance(style.color), luminance(style.backgroundColor)];
  const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (contrast < 4.5) say(`the text has a contrast of ${contrast.toFixed(1)}`);
}
async function search(view, say) {
  const input = view.document.querySelector("input.md-search__input");
  if (!input) return say("there is no search");
  view.document.querySelector("#__search").checked = true;
  input.focus();
  input.dispatchEvent(new view.Event("focus"));
  input.value = "hypergradient";
  for (let i = 0; i < 60; i++) {
    for (const name of ["input", "keyup"]) input.dispatchEvent(new view.Event(name, {bubbles: true}));
    await sleep(250);
    if (view.document.querySelector(".md-search-result__item")) return;
  }
  say("the search finds nothing");
}
(async () => {
  try {
    for (const width of WIDTHS) for (const page of PAGES) {
      const view = await open(page, width);
      for (const scheme of ["default", "slate"]) {
        view.document.body.setAttribute("data-md-color-scheme", scheme);
        await sleep(30);
        look(view, text => problems.push(`${page} at ${width} pixels, ${scheme}: ${text}`));
      }
      for (const text of view.__errors) problems.push(`${page} at ${width} pixels: ${text}`);
      for (const e of view.performance.getEntriesByType("resource"))
        if (!e.name.startsWith(location.origin) && !e.name.startsWith("data:") && !e.name.startsWith("blob:"))
          problems.push(`${page}: loads ${e.name} from another host`);
    }
    for (const width of WIDTHS) {
      const view = await open("/index.html", width);
      await search(view, text => problems.push(`/index.html at ${width} pixels: ${text}`));
    }
  } catch (error) {
    problems.push(`the check itself failed: ${error}`);
  }
  await fetch("/__report__", {method: "POST", body: JSON.stringify(problems)});
})();
</script>"""


if __name__ == "__main__":
    sys.exit(main())
