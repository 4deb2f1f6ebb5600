"""A saved report, opened as a colleague opens it: no error, no request, no sideways scrolling, light and dark."""

import json
import re
import shutil

import pytest

from bayesreg.reports import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(posteriors, tmp_path_factory):
    fits, x, y = posteriors
    made = report(fits, x, y, source="scikit-learn's diabetes data", target_name="progression", notes=["As it came."])
    saved, _ = made.save(tmp_path_factory.mktemp("report") / "report.html")
    return saved.as_uri(), made


def show(browser, uri, width=DESK, scheme="light"):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(uri)


def channels(text):
    """Red, green, blue of a computed colour, 0 to 1."""
    return [float(part) / 255 for part in re.findall(r"[\d.]+", text)[:3]]


def contrast(one, other):
    lights = []
    for colour in (one, other):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour))
        lights.append(0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05)
    return max(lights) / min(lights)


def style(browser, selector, name):
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return browser.execute_script(script, selector, name)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_goes_wrong_and_nothing_is_asked_for(browser, page, width):
    uri, made = page
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before
    show(browser, uri, width)
    assert browser.title == made.data["title"]
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [uri]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_does_not_scroll_sideways_and_tables_do_in_their_own_place(browser, page, width, scheme):
    show(browser, page[0], width, scheme)
    wide, seen = browser.execute_script("const e = document.scrollingElement; return [e.scrollWidth, e.clientWidth]")
    assert wide <= seen <= width
    out = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className)"
    )
    assert out == []
    held = browser.execute_script(
        "return [...document.querySelectorAll('table')].every(t => t.parentElement.matches('.scroll'))"
    )
    assert held


def test_open_details_do_not_widen_a_phone(browser, page):
    show(browser, page[0], PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= PHONE


def test_light_and_dark_are_two_pages_that_can_be_read(browser, page):
    found = {}
    for scheme in ("light", "dark"):
        show(browser, page[0], DESK, scheme)
        paper = style(browser, "#data", "backgroundColor")
        found[scheme] = (paper, style(browser, "#data p, #data dd", "color"))
        assert contrast(*found[scheme]) > 10
        assert contrast(paper, style(browser, "figcaption", "color")) > 4.5
        assert contrast(paper, style(browser, "svg text", "fill")) > 4.5  # figures follow the theme
        line = style(browser, "#calibration svg [style*='series-0']", "stroke")
        assert contrast(paper, line) > 3
        for badge in ("good", "neutral"):
            if browser.execute_script("return document.querySelector(arguments[0])", f".badge.{badge}"):
                colours = [style(browser, f".badge.{badge}", name) for name in ("color", "backgroundColor")]
                assert contrast(*colours) > 4.5
    assert sum(channels(found["light"][0])) > 2.5
    assert sum(channels(found["dark"][0])) < 0.6


def test_figures_are_small_multiples_with_their_words(browser, page):
    for width, across in ((PHONE, 1), (DESK, 3)):
        show(browser, page[0], width)
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('#uncertainty figure svg')].map(e => { const b = e.getBoundingClientRect();"
            " return [b.x, b.width, b.height] })"
        )
        assert len({round(x) for x, _, _ in boxes}) == across
        assert all(280 <= wide <= 430 and 180 <= high <= 310 for _, wide, high in boxes)
    words = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-labelledby'))"
        ".map(id => document.getElementById(id).textContent)"
    )
    assert all(len(text) > 20 for text in words)


def test_every_posterior_state_is_a_word_and_a_symbol(browser, page):
    show(browser, page[0])
    badges = browser.execute_script("return [...document.querySelectorAll('.badge')].map(e => e.textContent.trim())")
    assert len(badges) >= 4 + 3
    assert all(re.fullmatch(r"[✓i!]\s+(Good|Note|Caution|Converged|Not converged)", text) for text in badges)
