"""The last lesson's box in a real browser: a sentence is typed in and comes back with its entities marked."""

import pytest
from playwright.sync_api import expect
from test_lesson import run_all, wait_until_idle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

LESSON = "4_bert_ner/21_int8_on_cpu.ipynb"
TYPED = "Yesterday <b>Maria Silva</b> met the mayor of Lisbon."


def test_a_typed_sentence_is_read_and_marked(lab, browser, pictures):
    address, token = lab
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{address}/lab/tree/{LESSON}?token={token}&reset")
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=90_000)
    wait_until_idle(page)
    run_all(page)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    field = page.locator(".jp-OutputArea input[placeholder='a sentence with names in it']")
    field.scroll_into_view_if_needed()
    shown = page.locator(".course-entities")
    before = shown.inner_text()
    field.fill(TYPED)
    field.press("Enter")
    expect(shown).to_contain_text("met the mayor of")
    assert shown.inner_text() != before and shown.locator("b").count() == 0, "what is typed is text, not markup"
    page.screenshot(path=pictures / "7_own_sentence.png")
    page.close()
