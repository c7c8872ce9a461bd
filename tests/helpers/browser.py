"""Looks at a page in headless Chromium, and finds what is wrong with it that only a browser shows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

MOST_TABS = 500  # presses of Tab; a page whose focus never ends is left here

# Runs in the page. Colours are read from a canvas, which understands every way to write one.
LOOK = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(value => value / 255);
  };
  const over = (top, under) => under.map((value, i) => i < 3 ? top[3] * top[i] + (1 - top[3]) * value : 1);
  const luminance = colour => {
    const [r, g, b] = colour.map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.backgroundColor = "Canvas";  // what shows where a page has no background of its own
  const paper = rgba(getComputedStyle(probe).backgroundColor);
  probe.remove();
  const ground = element =>
    element ? over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement)) : paper;
  const named = element => {
    const name = element.getAttribute("aria-label") || element.alt || element.textContent;
    return `${element.localName}: ${name.trim().replace(/\\s+/g, " ").slice(0, 50)}`;
  };
  const elements = [...document.body.querySelectorAll("*")];

  function images() {
    return [...document.images].flatMap(image => [
      ...image.complete && image.naturalWidth > 0 ? [] : [`not loaded: ${named(image)} ${image.src.slice(0, 50)}`],
      ...image.alt.trim() ? [] : [`no alt text: ${image.src.slice(0, 50)}`],
    ]);
  }
  // WCAG 2 AA: 4.5, and 3 for large text. A disabled control may be faint.
  function faint() {
    const shown = elements.filter(element => element.checkVisibility() && !element.matches(":disabled")
      && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return shown.flatMap(element => {
      const style = getComputedStyle(element), size = parseFloat(style.fontSize);
      const least = size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5;
      const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
      for (let one = element; one; one = one.parentElement) ink[3] *= getComputedStyle(one).opacity;
      const found = contrast(over(ink, ground(element)), ground(element));
      return found >= least ? [] : [`${found.toFixed(2)} of ${least}: ${named(element)}`];
    });
  }
  function scrolls(element) {
    const { overflowX, overflowY } = getComputedStyle(element), moves = /auto|scroll/;
    return moves.test(overflowX) && element.scrollWidth > element.clientWidth
      || moves.test(overflowY) && element.scrollHeight > element.clientHeight;
  }
  const wanted = new Set(elements.filter(element => element.checkVisibility()
    && (element.matches("a[href], button:enabled, input:enabled, summary, [tabindex='0']") || scrolls(element))));
  const seen = new Set(), unmarked = [];
  // To be called after each press of Tab; false at the end of the page.
  function focused() {
    const at = document.activeElement;
    if (at === document.body || at === document.documentElement || seen.has(at)) return false;
    seen.add(at);
    const style = getComputedStyle(at), under = ground(parseFloat(style.outlineOffset) < 0 ? at : at.parentElement);
    const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    if (!drawn || contrast(over(rgba(style.outlineColor), under), under) < 3) unmarked.push(named(at));
    return true;
  }
  // Chromium's Tab stops at whatever scrolls; other browsers' only where a tabindex says so.
  const missed = element => !seen.has(element) || scrolls(element) && element.tabIndex < 0;
  const unreached = () => [...wanted].filter(missed).map(named);
  const width = document.documentElement.scrollWidth;
  const wide = () => width > innerWidth ? [`${width} px in a window of ${innerWidth} px`] : [];
  const brightness = () => luminance(ground(document.body));
  window.look = { images, faint, focused, unmarked, unreached, wide, brightness };
}"""


@dataclass
class Findings:
    """What `look` saw: the lists are problems, and empty for a good page."""

    text: str = ""  # as shown, with all details open
    brightness: float = 0.0  # of the page's background, from 0 to 1
    errors: list[str] = field(default_factory=list)  # on the console, or thrown
    requests: list[str] = field(default_factory=list)  # for anything but the file itself and data: URIs
    dialogs: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)  # the page scrolls sideways
    images: list[str] = field(default_factory=list)  # not loaded, or without alt text
    faint: list[str] = field(default_factory=list)  # text with too little contrast
    unreached: list[str] = field(default_factory=list)  # links, controls and scrolling regions that Tab passes over
    unmarked: list[str] = field(default_factory=list)  # focused by Tab, and no outline shows it

    def problems(self) -> dict[str, list[str]]:
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, list) and value}


@contextmanager
def chromium(executable: str, home: Path) -> Iterator[Browser]:
    """A browser that ends with the block; its profile is new, and what Chromium writes beside it goes to `home`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, env=environment | {"HOME": str(home)})
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[tuple[Page, Findings]]:
    """The page, and findings that fill with its errors, requests and dialogs as they come."""
    found = Findings()

    def request(url: str) -> None:
        if url != file.as_uri() and not url.startswith("data:"):
            found.requests.append(url)

    def dialog(one) -> None:
        found.dialogs.append(one.message)
        one.dismiss()

    # offline: a request is seen, but never leaves this machine
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True) as context:
        page = context.new_page()
        page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("request", lambda one: request(one.url))
        page.on("websocket", lambda one: request(one.url))
        page.on("dialog", dialog)
        page.goto(file.as_uri())
        yield page, found


def look(browser: Browser, file: Path, width: int, scheme: str) -> Findings:
    """Also writes a picture of the whole page into the folder that NIGHTSHIFT_SCREENSHOTS names, if it does."""
    with opened(browser, file, width, scheme) as (page, found):
        if folder := os.environ.get("NIGHTSHIFT_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{file.parent.name}-{file.stem}-{width}-{scheme}.png", full_page=True)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.evaluate(LOOK)
        for _ in range(MOST_TABS):
            page.keyboard.press("Tab")
            if not page.evaluate("look.focused()"):
                break
        for name in ("brightness", "wide", "images", "faint", "unreached"):
            setattr(found, name, page.evaluate(f"look.{name}()"))
        found.unmarked = page.evaluate("look.unmarked")
        found.text = page.inner_text("body")
    return found
