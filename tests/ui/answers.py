"""Answers that no model has to write: what the browser gets in place of the server's."""

import json

PATH = "**/v1/chat/completions"


def stream(*deltas, finish="stop"):
    """The body of a stream of deltas."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(deltas)}})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def script(page, *bodies):
    """Answers chat requests with `bodies`, one after the other; returns the list of what was asked, which grows."""
    asked, waiting = [], list(bodies)

    def answer(route):
        asked.append(route.request.post_data_json)
        route.fulfill(body=waiting.pop(0), content_type="text/event-stream")

    page.route(PATH, answer)
    return asked


def ask(page, text="Hello"):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answered(page):
    """The last answer, once it is whole."""
    answer = page.locator(".message.assistant[aria-busy=false]").last
    answer.locator(".stats:not(:empty), .notice:visible").first.wait_for()
    return answer


def go_on(page):
    """Has answers of the real model go on until they are as long as they may be."""
    page.route(PATH, lambda route: route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True}))
