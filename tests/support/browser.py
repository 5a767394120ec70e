"""A real Chromium without a window, in which a page is looked at as a person would."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support.wait import eventually


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        self._driver.get(url)

    def text(self, selector: str) -> str:
        """What a reader sees of the first element that matches."""
        try:
            return self._driver.find_element(By.CSS_SELECTOR, selector).text
        except StaleElementReferenceException:  # the page has just drawn it anew
            return self.text(selector)

    def wait_for_text(self, selector: str, part: str, timeout: float = 15.0) -> str:
        what = f"{part!r} in {selector}"
        eventually(lambda: part in self.text(selector), timeout=timeout, what=what)
        return self.text(selector)

    def script(self, source: str) -> Any:
        """The value of a JavaScript expression."""
        return self._driver.execute_script(f"return {source}")

    def press_tab(self) -> str:
        """The next stop of the keyboard, as ``tag`` or ``tag#id`` and its text's first line."""
        self._driver.switch_to.active_element.send_keys(Keys.TAB)
        return str(
            self.script(
                "(e => e.localName + (e.id ? '#' + e.id : '') + ' ' +"
                " (e.getAttribute('aria-labelledby') || e.textContent.trim()))"
                "(document.activeElement)"
            )
        )

    def press_enter(self) -> None:
        self._driver.switch_to.active_element.send_keys(Keys.ENTER)

    def prefer(self, **features: str) -> None:
        """Media features as the system would have them, e.g. ``prefers_color_scheme="dark"``."""
        listed = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def be_in(self, timezone: str) -> None:
        """Another time zone than the machine's, e.g. ``America/New_York``."""
        self._driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": timezone})

    def be_wide(self, width: int, height: int = 800) -> None:
        """A screen of so many CSS pixels; a window cannot be as narrow as a phone."""
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def console(self) -> list[str]:
        """What the browser complained about since the last call."""
        return [str(entry["message"]) for entry in self._log("browser")]

    def requested(self) -> list[str]:
        """The URLs that were asked for since the last call."""
        events = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader is told of."""
        self._driver.execute_cdp_cmd("Accessibility.enable", {})
        tree = self._driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        return [
            (str(node["role"]["value"]), str(node.get("name", {}).get("value", "")))
            for node in tree["nodes"]
            if not node.get("ignored")
        ]

    def screenshot(self, path: str) -> None:
        self._driver.save_screenshot(path)


@contextmanager
def browser() -> Iterator[Browser]:
    """Where there is no Chromium: a skip, but a failure in CI."""
    program, its_driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or its_driver is None:
        assert not os.environ.get("CI"), "CI lacks chromium or chromedriver"
        pytest.skip("no chromium and chromedriver on PATH")
    options = Options()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(its_driver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
