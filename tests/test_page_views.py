"""The live page's layout, languages, keyboard and login in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.web.asset_routes import packaged_assets
from tests.browser import FPS, SIZE_WH, Program, chromium, needs_browser, opened, program, sample_footage
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

ASSETS = {name: asset.content.decode() for name, asset in packaged_assets().items()}
LANGUAGES = ("en", "zh")
TOKEN = "correct horse battery"
LONG_NAME = "a very long name of a camera behind the house"
_SHOWN = "() => document.querySelector('live-player')?.presented?.boxes.length > 0"
_BROAD = "() => document.documentElement.scrollWidth - window.innerWidth"


def texts(language: str) -> dict[str, Any]:
    return dict(json.loads(ASSETS[f"{language}.json"]))


def forms(text: str | dict[str, str]) -> list[str]:
    return list(text.values()) if isinstance(text, dict) else [text]


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, chinese = texts("en"), texts("zh")
    assert english.keys() == chinese.keys()
    for key in english:
        values = [{frozenset(re.findall(r"{(\w+)}", form)) for form in forms(each[key])} for each in (english, chinese)]
        assert values[0] == values[1], key
        assert isinstance(english[key], dict) == isinstance(chinese[key], dict), key
        assert all(form.strip() for form in [*forms(english[key]), *forms(chinese[key])])


def test_every_text_is_used_and_every_text_used_exists() -> None:
    code = "\n".join(content for name, content in ASSETS.items() if name.endswith((".js", ".html")))
    used = set(re.findall(r"""\bt\("([\w.]+)\"""", code)) | set(re.findall(r'data-t(?:-label)?="([\w.]+)"', code))
    used |= set(re.findall(r'(?:key: |#say\()"([\w.]+)"', code))
    made = {
        "state": "connecting running reconnecting ended failed",
        "mode": "mse webrtc mjpeg",
        "theme": "auto light dark",
    }
    used |= {f"{prefix}.{word}" for prefix, words in made.items() for word in words.split()}
    known = set(texts("en"))
    assert used - known == set()
    assert known - used == set()


def test_assets_are_small_whole_and_ask_no_other_host() -> None:
    assert sum(len(content.encode()) for content in ASSETS.values()) < 150_000
    assert max(content.count("\n") for content in ASSETS.values()) < 400
    for name, content in ASSETS.items():
        if name.endswith(".json"):
            continue
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", content)
        assert [each for each in found if "www.w3.org" not in each] == [], name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", content), name
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", ASSETS["index.html"])
    symbols = set(re.findall(r'symbol id="(\w+)"', ASSETS["icons.svg"]))
    used = set(re.findall(r"icons\.svg#(\w+)", ASSETS["index.html"]))
    for content in (content for name, content in ASSETS.items() if name.endswith(".js")):
        used |= set(re.findall(r'\b(?:icon|button|emptyState)\("(\w+)"', content))
    assert used <= symbols


@pytest.fixture(scope="module")
def camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(sample_footage(), size_wh=SIZE_WH, fps=FPS)) as server:
        yield server


@pytest.fixture(scope="module")
def run(camera: RtspServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("run")
    sources = [f"{name}={camera.url}" for name in ("door", "yard", LONG_NAME)]
    with program(folder, *sources, "--max-fps", "2", "--web-token", TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def log_in(page: Any) -> None:
    page.locator("input[type=password]").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator(".tile, .stream-view, .recorded").first.wait_for()


in_browser = [needs_browser, pytest.mark.slow, pytest.mark.timeout(900)]


def marked(test: Any) -> Any:
    for mark in in_browser:
        test = mark(test)
    return test


@marked
def test_a_wrong_token_is_refused_and_the_right_one_enters(run: Program, browser: Any) -> None:
    with opened(browser, f"{run.url}/") as (page, seen):
        token = page.get_by_label("Token")
        token.fill("wrong token")
        with page.expect_response("**/api/login") as answer:
            page.get_by_role("button", name="Log in").click()
        assert answer.value.status == 401
        page.get_by_text("This token is wrong.").wait_for()
        assert page.locator(".tile").count() == 0
        seen.problems.clear()  # the browser notes answers of 401
        log_in(page)
        page.reload()
        page.locator(".tile").first.wait_for()
        page.get_by_role("button", name="Preferences").click()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
        assert TOKEN not in page.content()
        page.reload()
        page.get_by_label("Token").wait_for()


@marked
@pytest.mark.parametrize("width", [320, 768, 1440])
@pytest.mark.parametrize("view", ["", "stream/door", "recorded"])
def test_every_view_fits_its_screen(run: Program, browser: Any, width: int, view: str) -> None:
    with opened(browser, f"{run.url}/#/{view}", viewport={"width": width, "height": 740}) as (page, _seen):
        log_in(page)
        page.get_by_role("heading").first.wait_for()
        if not view:
            page.wait_for_function(_SHOWN)
        assert page.evaluate(_BROAD) <= 0
        page.get_by_role("button", name="Preferences").click()
        assert page.evaluate(_BROAD) <= 0


@marked
@pytest.mark.parametrize(("language", "chosen", "heading"), [("zh-CN", "English", "Live"), ("fr-FR", "中文", "实时")])
def test_the_language_is_the_browsers_or_the_one_chosen(
    run: Program, browser: Any, language: str, chosen: str, heading: str
) -> None:
    first = {"zh-CN": "实时", "fr-FR": "Live"}[language]
    with opened(browser, f"{run.url}/", locale=language) as (page, _seen):
        log_in(page)
        page.get_by_role("heading", name=first, exact=True).wait_for()
        page.locator("#preferences").click()
        page.get_by_role("dialog").locator("select").nth(1).select_option(label=chosen)
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        page.reload()
        page.get_by_role("heading", name=heading, exact=True).wait_for()


@marked
def test_no_text_is_left_untranslated(run: Program, browser: Any) -> None:
    def mark(text: str | dict[str, str]) -> str | dict[str, str]:
        return {form: f"⟦{each}⟧" for form, each in text.items()} if isinstance(text, dict) else f"⟦{text}⟧"

    marked_texts = json.dumps({key: mark(text) for key, text in texts("en").items()})
    look = r"""() => {
      const found = [];
      const inner = /⟦[^⟦⟧]*⟧/g;
      const plain = (text) => (text.match(inner) ? plain(text.replace(inner, '')) : text);
      const named = ['aria-label', 'title', 'placeholder', 'alt'];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.nodeType === 3 ? node.parentElement : node;
        if (element.closest('[translate=no], dd, output, .legend, .bars-axis, .chart, #run')) continue;
        const texts = node.nodeType === 3 ? [node.data] : named.map((name) => node.getAttribute(name) ?? '');
        for (const text of texts) if (/\p{L}{2,}/u.test(plain(text))) found.push(text);
      }
      return found;
    }"""
    with opened(browser, "about:blank") as (page, _seen):
        page.route("**/assets/en.json", lambda route: route.fulfill(body=marked_texts, content_type="application/json"))
        page.goto(f"{run.url}/")
        page.locator("input[type=password]").wait_for()
        assert page.evaluate(look) == []
        log_in(page)
        for place in ("#/", "#/stream/door", "#/recorded", "#/stream/nobody"):
            page.goto(f"{run.url}/{place}")
            page.locator("main h1, main h2").first.wait_for()
            assert page.evaluate(look) == [], place
        page.locator("#preferences").click()
        assert [each for each in page.evaluate(look) if each not in ("English", "中文")] == []


@marked
def test_the_keyboard_alone_is_enough(run: Program, browser: Any) -> None:
    name = "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
    with opened(browser, f"{run.url}/") as (page, _seen):
        log_in(page)
        page.locator(".tile").nth(2).wait_for()
        page.reload()
        page.locator(".tile").nth(2).wait_for()
        order = []
        for _ in range(12):
            page.keyboard.press("Tab")
            order.append(page.evaluate(name))
            assert page.evaluate("() => document.activeElement.matches(':focus-visible, body')"), order
        assert order[:7] == ["Skip to the content", "Live", "Live", "Recorded", "Preferences", "Boxes", "Add stream"]
        assert order[7:10] == ["door", "yard", LONG_NAME]
        page.get_by_role("link", name="door", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="door", exact=True).wait_for()
        assert page.evaluate(name) == "door"  # the new view's heading
        page.get_by_role("link", name="Back to all streams").focus()
        page.keyboard.press("Enter")
        add = page.get_by_role("button", name="Add stream")
        add.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Add stream")
        dialog.wait_for()
        page.keyboard.type("gate")
        page.keyboard.press("Tab")
        page.keyboard.type("ftp://127.0.0.1/")
        page.keyboard.press("Enter")
        dialog.get_by_role("alert").filter(has_text="Not done").wait_for()
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        assert page.evaluate(name) == "Add stream"


@marked
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_systems_or_the_one_chosen(run: Program, browser: Any, scheme: Any) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(242, 244, 246)", "dark": "rgb(14, 18, 22)"}
    other = "dark" if scheme == "light" else "light"
    with opened(browser, f"{run.url}/", color_scheme=scheme) as (page, _seen):
        assert page.evaluate(ground) == colours[scheme]
        log_in(page)
        page.get_by_role("button", name="Preferences").click()
        page.get_by_label("Theme").select_option(other)
        assert page.evaluate(ground) == colours[other]
        page.reload()
        assert page.evaluate(ground) == colours[other]


@marked
def test_a_stream_is_removed_after_a_question(camera: RtspServer, tmp_path: Path, browser: Any) -> None:
    sources = [f"door={camera.url}", f"yard={camera.url}"]
    with program(tmp_path, *sources, "--max-fps", "2") as run, opened(browser, f"{run.url}/#/stream/yard") as (page, _):
        remove = page.get_by_role("button", name="Remove stream")
        remove.click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        remove.click()
        page.get_by_role("dialog").get_by_role("button", name="Remove stream").click()
        page.get_by_role("heading", name="Live", exact=True).wait_for()
        page.get_by_role("link", name="yard", exact=True).wait_for(state="detached")
        assert page.get_by_role("link", name="door", exact=True).count() == 1
        run.process.terminate()
        page.get_by_text("The program can't be reached.").first.wait_for()
