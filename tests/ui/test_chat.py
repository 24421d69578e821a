"""Chat in a real browser: streams, stopping, settings, tools, hostile answers, keys, servers that go away."""

import json

import pytest

from server.running import Server

from .answers import PATH, answered, ask, go_on, script, stream

SHORT = {"max_tokens": "24", "temperature": "0"}
LONG = {"max_tokens": "1900", "temperature": "0"}
HOSTILE = """<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>

[click](javascript:window.hacked=3) [data](data:text/html,<script>1</script>) ![picture](https://elsewhere.invalid/a.png)

<iframe src="https://elsewhere.invalid/"></iframe><svg onload="window.hacked = 4">

| <b onclick=x>a</b> | b |
|---|---|
| <script>window.hacked = 5</script> | `<i>` |

```html" onmouseover="window.hacked = 6
<script>window.hacked = 7</script>
```
[good](https://example.com/a?b=1) <https://example.com/c> and https://example.com/d."""
RICH = """# Title

Some *slanted*, **bold**, `code` and ~~gone~~ text with 2 * 3 * 4 and snake_case_names.

1. one
   - inner
   - other
2. two

   more of two

> said

| a | b |
|:--|--:|
| 1 | 2 |

```python
print("<b>")
```"""


def test_an_answer_streams_and_says_how_fast_it_was(server, visit):
    page = visit(server.url, settings=SHORT)
    page.locator(".log").wait_for(state="attached")
    sizes = page.evaluate_handle("[]")
    page.evaluate(
        """sizes => {
          const note = () => sizes.push(document.querySelector('.assistant > .prose')?.innerText.length);
          new MutationObserver(note).observe(document.querySelector('.log'), {subtree: true, childList: true});
        }""",
        sizes,
    )
    ask(page, "Why is the sky blue?")
    answer = answered(page)
    assert len(answer.locator(".prose").last.inner_text()) > 20
    assert "24 tokens" in answer.locator(".stats").inner_text()
    assert "tok/s" in answer.locator(".stats").inner_text()
    assert len({size for size in sizes.json_value() if size}) > 3
    assert page.locator(".message.user").inner_text().startswith("Why is the sky blue?")


def test_stop_ends_the_answer_at_the_server_too(server, visit):
    page = visit(server.url, settings=LONG)
    go_on(page)
    ask(page, "Count to a thousand.")
    page.locator(".message.assistant .prose > *").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    assert "Stopped." in answered(page).locator(".stats").inner_text()
    server.settle()


def test_a_frame_that_comes_late_does_not_begin_an_answer_again(server, visit):
    page = visit(server.url, settings=LONG)
    go_on(page)
    ask(page, "Count to a thousand.")
    page.locator(".message.assistant .prose > *").first.wait_for()
    page.evaluate(
        "() => { requestAnimationFrame = (draw) => setTimeout(draw, 500); cancelAnimationFrame = clearTimeout; }"
    )
    page.wait_for_timeout(300)  # a piece has come, and its frame has not
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(1000)
    assert "Stopped." in answered(page).locator(".stats").inner_text()


def test_escape_in_the_settings_closes_them_and_the_answer_goes_on(server, visit):
    page = visit(server.url)
    page.route(PATH, lambda route: None)  # no answer yet
    ask(page)
    stop = page.get_by_role("button", name="Stop")
    stop.wait_for()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#chat-settings").wait_for(state="hidden")
    assert stop.is_visible()
    page.keyboard.press("Escape")
    stop.wait_for(state="hidden")
    assert "Stopped." in answered(page).locator(".stats").inner_text()


def test_regenerate_and_edit(server, visit):
    page = visit(server.url)
    asked = script(page, stream({"content": "one"}), stream({"content": "two"}), stream({"content": "three"}))
    ask(page, "first")
    answered(page).get_by_role("button", name="Regenerate").click()
    page.get_by_text("two", exact=True).wait_for()
    assert page.locator(".message").count() == 2
    page.get_by_role("button", name="Edit and send again").click()
    assert page.get_by_label("Message", exact=True).input_value() == "first"
    ask(page, "second")
    page.get_by_text("three", exact=True).wait_for()
    assert [body["messages"] for body in asked] == [
        [{"role": "user", "content": text}] for text in ("first", "first", "second")
    ]


def test_a_conversation_goes_on_after_a_reload_and_is_gone_in_a_new_one(server, visit):
    page = visit(server.url)
    asked = script(page, stream({"content": "one"}), stream({"content": "two"}))
    ask(page, "first")
    answered(page)
    page.reload()
    ask(page, "second")
    page.get_by_text("two", exact=True).wait_for()
    assert [message["content"] for message in asked[-1]["messages"]] == ["first", "one", "second"]
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".message").count() == 0
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"


def test_settings_are_sent_and_wrong_ones_are_named(server, visit):
    page = visit(server.url)
    asked = script(page, stream({"content": "ok"}), stream({"content": "ok"}))
    page.get_by_role("button", name="Settings", exact=True).click()
    fields = {"Temperature": "0.3", "Top p": "0.9", "Top k": "40", "Min p": "0.05", "Max tokens": "17", "Seed": "7"}
    fields |= {"Presence penalty": "0.1", "Frequency penalty": "0.2", "Repetition penalty": "1.1"}
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("System prompt").fill("Be brief.")
    ask(page)
    answered(page)
    names = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed")
    names += ("presence_penalty", "frequency_penalty", "repetition_penalty")
    assert {name: asked[0][name] for name in names} == dict(zip(names, map(float, fields.values()), strict=True))
    assert asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    page.get_by_label("Temperature", exact=True).fill("9")
    ask(page, "again")
    assert "Temperature" in page.locator(".composer .notice").inner_text()
    page.get_by_label("Temperature", exact=True).fill("1")
    page.get_by_label("Tools", exact=True).fill("[{")
    ask(page, "again")
    assert "Tools: this is no JSON" in page.locator(".composer .notice").inner_text()
    assert len(asked) == 1
    page.get_by_role("button", name="Reset all").click()
    ask(page, "again")
    answered(page)
    page.get_by_text("again", exact=True).wait_for()
    assert "temperature" not in asked[1]


def test_html_in_an_answer_is_text(server, visit):
    page = visit(server.url)
    script(page, stream({"content": HOSTILE}, {"reasoning": HOSTILE}))
    ask(page, HOSTILE)
    answer = answered(page)
    assert page.evaluate("window.hacked") is None
    for tag in ("img", "script", "iframe", "b", "i", "svg[onload]", "[onmouseover]", "[onerror]", "[onclick]"):
        assert page.locator(f".log {tag}").count() == 0, tag
    links = answer.locator(".prose a").evaluate_all("links => links.map(a => [a.getAttribute('href'), a.rel])")
    good = {f"https://example.com/{end}" for end in ("a?b=1", "c", "d")}
    assert {href for href, _ in links} == good | {f"https://elsewhere.invalid/{end}" for end in ("", "a.png")}
    assert all("noopener" in rel for _, rel in links)
    assert "<script>window.hacked = 2</script>" in answer.inner_text()


def test_markdown_becomes_elements(server, visit):
    page = visit(server.url)
    script(page, stream(*({"content": RICH[at : at + 7]} for at in range(0, len(RICH), 7))))
    ask(page)
    prose = answered(page).locator(".prose").last
    assert prose.locator("h3").inner_text() == "Title"
    assert prose.locator("ol > li").count() == 2
    assert prose.locator("ol > li ul > li").all_inner_texts() == ["inner", "other"]
    assert [prose.locator(tag).inner_text() for tag in ("em", "strong", "del")] == ["slanted", "bold", "gone"]
    assert prose.locator("blockquote").inner_text() == "said"
    assert prose.locator("tbody td.align-right").inner_text() == "2"
    assert prose.locator("pre code").inner_text() == 'print("<b>")'
    assert "2 * 3 * 4 and snake_case_names." in prose.inner_text()


def test_what_would_take_a_renderer_forever_does_not(server, visit):
    page = visit(server.url)
    text = "*a **b [" * 4000 + "\n" + "> " * 3000 + "\n" + "`" * 5000 + "\n" + "- " * 2000 + "end"
    script(page, stream({"content": text}))
    ask(page)
    assert "end" in answered(page).inner_text()


def test_thinking_is_folded_and_calls_of_tools_get_their_results(server, visit):
    page = visit(server.url)
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"ci'}}
    rest = {"index": 0, "function": {"arguments": 'ty": "Paris"}'}}
    first = stream({"reasoning": "Hm. "}, {"reasoning": "Paris!"}, {"tool_calls": [call]}, {"tool_calls": [rest]})
    asked = script(page, first, stream({"content": "It rains."}))
    page.get_by_role("button", name="Settings", exact=True).click()
    tool = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    page.get_by_label("Tools", exact=True).fill(json.dumps([{"type": "function", "function": tool}]))
    ask(page, "Weather in Paris?")
    card = page.get_by_role("region", name="Call of get_weather")
    assert '"city": "Paris"' in card.inner_text()
    assert not page.get_by_text("Paris!").is_visible()
    page.locator(".assistant summary").click()
    assert page.get_by_text("Hm. Paris!").is_visible()
    card.get_by_label("Result of get_weather").fill("rain")
    card.get_by_role("button", name="Send the result").click()
    page.get_by_text("It rains.").wait_for()
    sent = asked[1]["messages"]
    assert sent[1]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    ]
    assert sent[2] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    assert asked[1]["tools"][0]["function"]["name"] == "get_weather"


def test_only_models_that_chat_are_offered(server, visit):
    page = visit(server.url)
    page.locator(".chooser option", has_text="assistant").first.wait_for(state="attached")
    assert page.locator("#view-chat .chooser option").all_inner_texts() == ["assistant"]


def test_a_model_that_is_not_loaded_says_so_and_can_be_loaded(server, visit):
    page = visit("about:blank")
    card = {"id": "org/sleepy", "object": "model", "status": "unloaded", "pinned": False, "skills": ["text"]}
    asked = []

    def load(route):
        asked.append((route.request.url.removeprefix(server.url), route.request.post_data_json))
        card["status"] = "ready"
        route.fulfill(json=card)

    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [card]}))
    page.route("**/v1/models/**/load", load)
    page.goto(server.url)
    page.locator("#view-chat .chip", has_text="unloaded").wait_for()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("button", name="Unload", exact=True).wait_for()
    assert asked == [("/v1/models/org/sleepy/load", {})]
    assert not page.locator("#view-chat .chip").is_visible()


def test_a_model_is_unloaded_and_loaded_at_the_server(server, visit):
    page = visit(f"{server.url}/#map")
    page.get_by_role("button", name="Unload", exact=True).click()
    page.locator("#view-map .chip", has_text="unloaded").wait_for()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("button", name="Unload", exact=True).wait_for()


def test_what_the_server_refuses_is_shown_in_its_words(server, visit):
    page = visit(server.url)
    ask(page, "word " * 4000)
    assert "2048" in answered(page).locator(".notice").inner_text()
    page.get_by_role("button", name="Try again").wait_for()


def test_a_key_is_asked_for_and_a_wrong_one_is_told(tiny_model, tmp_path, visit):
    server = Server(tmp_path / "log", tiny_model, "--api-key", "right-key", "--served-model-name", "tiny").wait()
    try:
        page = visit(server.url, settings=SHORT)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.wait_for()
        assert page.locator("option", has_text="tiny").count() == 0
        for key in ("kéy-λ", "wrong-key", "right-key"):
            dialog.get_by_label("Key").fill(key)
            dialog.get_by_role("button", name="Use this key").click()
            if key == "kéy-λ":
                dialog.get_by_text("only ASCII characters").wait_for()
            elif key == "wrong-key":
                dialog.get_by_text("does not take this key").wait_for()
        dialog.wait_for(state="hidden")
        ask(page)
        assert " tok/s" in answered(page).inner_text()
        assert "right-key" not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        page.reload()
        page.locator("option", has_text="tiny").first.wait_for(state="attached")
        assert dialog.count() == 0 or not dialog.is_visible()
    finally:
        server.stop()


@pytest.mark.parametrize("moment", ["before an answer", "in the middle of it"])
def test_a_server_that_goes_away_is_told_and_trying_again_works_when_it_is_back(server, relay, visit, moment):
    relay.target = server.port
    page = visit(relay.url, settings=LONG)
    go_on(page)
    page.locator("option", has_text="assistant").first.wait_for(state="attached")
    if moment == "before an answer":
        relay.lose()
    ask(page, "Count to a thousand.")
    if moment == "in the middle of it":
        page.locator(".message.assistant .prose > *").first.wait_for()
        relay.lose()
    answer = answered(page)
    assert "does not answer" in answer.locator(".notice").inner_text()
    page.locator("#banner", has_text="does not answer").wait_for()
    relay.target = server.port
    page.locator("#banner").wait_for(state="hidden")
    script(page, stream({"content": "here I am"}))
    answer.get_by_role("button", name="Try again").click()
    page.get_by_text("here I am").wait_for()
    server.settle()


def test_a_stream_without_an_end_is_an_answer_with_an_error(server, visit):
    page = visit(server.url)
    page.route(
        PATH,
        lambda route: route.fulfill(
            body=stream({"content": "half"}).replace("data: [DONE]", ": x"), content_type="text/event-stream"
        ),
    )
    ask(page)
    answer = answered(page)
    assert "half" in answer.inner_text()
    assert "interrupted" in answer.locator(".notice").inner_text()
