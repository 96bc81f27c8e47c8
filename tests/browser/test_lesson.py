"""A lesson in a real browser: run all, a wrong answer and its message, a right one, the slider and its figure."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

LESSON = "1_pruning/01_l1_pruning_math.ipynb"
FORGETS_THE_SIGN = """import torch

def soft_threshold(w, threshold):
    return (w.abs() - threshold).clamp(min=0)
"""
RIGHT = """import torch

def soft_threshold(w, threshold):
    return torch.sign(w) * (w.abs() - threshold).clamp(min=0)
"""
IDLE = "Kernel status: Idle|Idle"


@pytest.fixture(scope="module")
def page(lab, browser):
    address, token = lab
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{address}/lab/tree/{LESSON}?token={token}&reset")
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=90_000)
    wait_until_idle(page)
    yield page
    page.close()


def wait_until_idle(page: Page) -> None:
    """Until no cell waits for its turn and the kernel says it is idle."""
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))", timeout=300_000
    )
    expect(page.locator(".jp-NotebookPanel-toolbar .jp-Notebook-ExecutionIndicator")).to_have_attribute(
        "data-status", "idle", timeout=300_000
    )


def run_all(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
    page.wait_for_timeout(1000)
    wait_until_idle(page)


def cell_with(page: Page, text: str) -> Locator:
    """The code cell whose source holds ``text``."""
    return page.locator(".jp-CodeCell").filter(has=page.locator(".jp-InputArea-editor").filter(has_text=text)).first


def replace_source(page: Page, cell: Locator, source: str) -> None:
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    page.keyboard.press("Shift+Enter")
    page.wait_for_timeout(500)
    wait_until_idle(page)


def run_cell(page: Page, cell: Locator) -> None:
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_timeout(500)
    wait_until_idle(page)


def test_an_untouched_lesson_runs_to_its_end_without_an_error(page, pictures):
    run_all(page)
    cells = page.locator(".jp-CodeCell")
    assert cells.count() > 15
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    expect(page.get_by_text("soft_threshold: not attempted yet").first).to_be_visible()
    cell_with(page, 'check("soft_threshold"').scroll_into_view_if_needed()
    page.screenshot(path=pictures / "1_not_attempted.png")


def test_a_wrong_answer_gets_the_message_made_for_it_and_a_right_one_its_points(page, pictures):
    exercise, check = cell_with(page, "def soft_threshold("), cell_with(page, 'check("soft_threshold"')
    replace_source(page, exercise, FORGETS_THE_SIGN)
    run_cell(page, check)
    card = check.locator(".course-card")
    expect(card).to_contain_text("nothing negative is left")
    expect(card).not_to_contain_text("not attempted")
    page.screenshot(path=pictures / "2_wrong_answer.png")
    replace_source(page, exercise, RIGHT)
    run_cell(page, check)
    expect(check.locator(".course-card")).to_contain_text("✔ soft_threshold")
    page.screenshot(path=pictures / "3_right_answer.png")


def test_turning_the_knob_changes_the_figure(page, pictures):
    knobs = page.locator(".jp-OutputArea .widget-slider, .jp-OutputArea .jupyter-widgets.widget-inline-hbox:has(.noUi-handle)")
    expect(knobs.first).to_be_visible()
    output = page.locator(".jp-CodeCell").filter(has=knobs.first).first
    picture = output.locator("img").first
    expect(picture).to_be_visible()
    before = picture.get_attribute("src")
    output.scroll_into_view_if_needed()
    page.screenshot(path=pictures / "4_knob_before.png")
    handle = output.locator(".noUi-handle").first
    handle.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        handle.press(key)
    expect(output.locator("img").first).not_to_have_attribute("src", before, timeout=60_000)
    page.screenshot(path=pictures / "5_knob_after.png")


def test_a_prediction_is_kept_and_shown_beside_the_measurement(page, pictures):
    field = page.locator(".jp-OutputArea input[placeholder='a number']").first
    field.scroll_into_view_if_needed()
    form = page.locator(".jp-CodeCell").filter(has=field).first
    field.fill("12,5")
    field.press("Tab")
    form.get_by_role("button", name="That is my guess").click()
    expect(form.get_by_text("Kept. Run on.")).to_be_visible()
    page.screenshot(path=pictures / "6_prediction.png")
