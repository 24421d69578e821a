"""Everyone can use the page: with keys alone, with a screen reader, on a phone, in the dark."""

import pytest

from .answers import answered, ask, script, stream

VIEWS = ("chat", "speech", "map", "engine")
ANSWER = (
    "# Title\n\nA [link](https://example.com), `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint(1)\n```"
)


def fill(page, view):
    """Brings a view to where it shows something."""
    if view == "chat":
        script(page, stream({"reasoning": "Hm."}, {"content": ANSWER}))
        ask(page)
        answered(page)
        page.get_by_role("button", name="Settings", exact=True).click()
    elif view == "speech":
        page.get_by_role("button", name="Choose a file").wait_for()
    elif view == "map":
        page.get_by_role("textbox", name="Lines").fill("cat\ndog\nsun\nmoon")
        page.get_by_role("button", name="Make the map").click()
        page.locator(".dot-place").first.wait_for()
    else:
        page.locator(".figures div").first.wait_for()
        page.get_by_text("Requests as a table").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(server, visit, view, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="there is no axe: pip install 'octavo[ui]'"
    )
    page = visit(f"{server.url}/#{view}", color_scheme=scheme, reduced_motion="reduce")
    fill(page, view)
    found = axe.Axe().run(page).response["violations"]
    grave = [
        (fault["id"], [node["target"] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert grave == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(server, visit, view):
    page = visit(f"{server.url}/#{view}", width=360, height=740)
    fill(page, view)
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    inside = ".scroll, pre, svg, .hidden"  # what scrolls by itself, or is for screen readers
    wide = f"all => all.filter(e => e.getBoundingClientRect().right > 361 && !e.closest('{inside}')).length"
    assert page.locator("main :visible").evaluate_all(wide) == 0


def test_a_chat_with_keys_alone(server, visit):
    page = visit(server.url)
    asked = script(page, stream({"content": "one"}), stream({"content": "two"}))
    page.get_by_label("Message", exact=True).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.locator("textarea:focus").wait_for()
    page.keyboard.type("Hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    page.keyboard.press("Enter")
    answered(page)
    assert asked[0]["messages"][-1]["content"] == "Hello\nthere"
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.textContent") == "Regenerate":
            break
    page.keyboard.press("Enter")
    page.get_by_text("two", exact=True).wait_for()
    page.keyboard.press("Alt+s")
    assert page.evaluate("document.activeElement.name") == "system"
    page.keyboard.press("Escape")
    assert not page.locator("#chat-settings").is_visible()


def test_views_and_help_by_keys(server, visit):
    page = visit(server.url)
    for number, name in enumerate(("Chat", "Speech", "Map", "Engine room"), 1):
        page.keyboard.press(f"Alt+{number}")
        page.locator("nav a[aria-current=page]", has_text=name).wait_for()
    on_a_mac = "new KeyboardEvent('keydown', {key: '¡', code: 'Digit1', altKey: true, bubbles: true})"
    page.evaluate(f"document.body.dispatchEvent({on_a_mac})")
    page.locator("nav a[aria-current=page]", has_text="Chat").wait_for()
    page.locator("main").focus()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    assert "stop the answer" in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_what_has_the_focus_can_be_seen(server, visit):
    page = visit(server.url)
    page.locator("option", has_text="assistant").first.wait_for(state="attached")
    for _ in range(14):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => [document.activeElement, document.activeElement.parentElement].some((one) => {
              const style = getComputedStyle(one);
              return parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== 'none' || style.boxShadow !== 'none';
            })"""
        )
        assert seen, page.evaluate("document.activeElement.outerHTML")


def test_light_and_dark_can_be_chosen_and_stay(server, visit):
    page = visit(server.url, color_scheme="light")
    background = "getComputedStyle(document.body.parentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(background)
    assert light != dark
    page.reload()
    assert page.evaluate(background) == dark


def test_answers_are_told_to_screen_readers(server, visit):
    page = visit(server.url)
    script(page, stream({"content": "It is so."}))
    ask(page)
    page.locator("#announcer", has_text="It is so.").wait_for(state="attached")
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("navigation", name="Views").count() == 1
