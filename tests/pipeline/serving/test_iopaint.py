"""IOPaint's own web application, as its package has it, in a real Chromium against our service."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.replica.replica import Replica

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def web_app() -> str:
    """Return the folder of the application, which ``make test`` installs without dependencies."""
    folder = Path(sys.prefix, "iopaint")
    target = f"{folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}/installed"
    make = ["make", "--silent", f"VENV={Path(target).parent.parent}", target]
    subprocess.run(make, cwd=ROOT, check=True, timeout=120)
    return str(folder / "iopaint" / "web_app")


@pytest.fixture
def opened(browser, serving, replica, web_app):
    """Open the application; an error of its own fails the test."""
    complaints, answers = [], []
    with (
        serving(replica, HttpConfig(web_app=web_app)) as url,
        browser.new_context(viewport={"width": 1200, "height": 800}) as context,
    ):
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda answer: answers.append(answer))
        page.goto(url)
        yield page, answers
        assert not complaints
        assert not [
            (answer.url, answer.status)
            for answer in answers
            if answer.url.startswith(url) and answer.status >= 400
        ]


def test_stroke_in_iopaint_s_application_is_inpainted(opened, make):
    page, answers = opened
    photograph = make.photograph(200, 300)
    file = {"name": "photo.png", "mimeType": "image/png", "buffer": make.file(photograph)}
    page.locator("input[type=file]").first.set_input_files(file)
    canvas = page.locator("canvas").last
    canvas.wait_for()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    filled = []

    def pass_on(route):
        """Keep the answer, whose body the application takes away from others."""
        answer = route.fetch()
        filled.append((answer.status, answer.body()))
        route.fulfill(response=answer)

    page.route("**/api/v1/inpaint", pass_on)
    with page.expect_response("**/api/v1/inpaint") as waiting:
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 40, middle[1] + 10, steps=4)
        page.mouse.up()
    sent = waiting.value.request.post_data_json
    [(status, body)] = filled
    assert status == 200, body
    with Image.open(io.BytesIO(base64.b64decode(sent["mask"].rpartition(",")[2]))) as opened_mask:
        hole = np.asarray(opened_mask.convert("L")) > 127
    got = make.pixels(body)
    assert hole.any()
    np.testing.assert_array_equal(got[~hole][..., :3], photograph[~hole])
    assert (got[hole][..., :3] != photograph[hole]).any()
    paths = {httpx.URL(answer.url).path for answer in answers}
    wanted = {"/api/v1/server-config", "/api/v1/model", "/api/v1/inputimage", "/socket.io/"}
    assert paths >= wanted


def test_masks_are_grown_shrunk_and_inverted_in_the_application_s_colour(serving, replica, make):
    hole = make.hole(40, 50, slice(10, 20), slice(10, 30))
    areas = {}
    with serving(replica, HttpConfig()) as url:
        for operation in ("expand", "shrink", "reverse"):
            body = {"mask": base64.b64encode(make.file(hole)).decode(), "kernel_size": 3}
            answer = httpx.post(f"{url}/api/v1/adjust_mask", json={**body, "operate": operation})
            pixels = make.pixels(answer.content)
            assert set(map(tuple, pixels.reshape(-1, 4))) == {(0, 0, 0, 0), (0, 203, 255, 186)}
            areas[operation] = pixels[..., 3] > 0
        refused = httpx.post(f"{url}/api/v1/adjust_mask", json={**body, "operate": "melt"})
    assert (areas["reverse"] == ~hole).all()
    assert areas["expand"][hole].all()
    assert areas["expand"].sum() > hole.sum() > areas["shrink"].sum() == 4 * 14
    assert refused.status_code == 400
    assert "expand, shrink or reverse" in refused.json()["errors"]


def test_chosen_model_is_kept_for_the_browser_that_chose_it(serving, replica):
    with serving(replica, HttpConfig()) as url, httpx.Client(base_url=url) as browser:
        assert browser.get("/api/v1/model").json()["name"] == "spn"
        config = browser.get("/api/v1/server-config").json()
        assert [model["name"] for model in config["modelInfos"]] == ["spn"]
        assert config["plugins"] == config["samplers"] == []
        assert browser.post("/api/v1/model", json={"name": "lama"}).status_code == 404
        assert browser.post("/api/v1/model", json={"name": "spn"}).json()["name"] == "spn"
        assert browser.cookies["infill_model"] == "spn"
        assert browser.post("/api/v1/gen-info", files={"file": b"x"}).json()["prompt"] == ""
        assert "plugins" in browser.post("/api/v1/run_plugin_gen_mask", json={}).json()["errors"]


@pytest.fixture
def two_models(spn) -> Replica:
    """A replica of two models, of which "spn" is used where none is chosen."""
    made = Replica(ReplicaConfig())
    made.reconfigure({"models": [vars(spn), {**vars(spn), "name": "second"}]})
    return made


CALL = """async ([url, path, body]) => {
    const sent = body && {method: "POST", body: JSON.stringify(body)};
    if (sent) sent.headers = {"Content-Type": "application/json"};
    const answer = await fetch(url + path, sent || {});
    return [answer.status, await answer.json()];
}"""


def test_a_page_of_another_origin_is_told_that_it_cannot_choose(browser, serving, two_models):
    """Its browser sends no cookie, so that the choice would be forgotten in silence."""
    with (
        serving(two_models, HttpConfig()) as elsewhere,
        serving(two_models, HttpConfig(cors_origins=(elsewhere,))) as url,
        browser.new_context(bypass_csp=True) as context,  # of our own page, which stands for any
    ):
        page = context.new_page()
        found = {}
        for origin in (elsewhere, url):
            page.goto(origin)
            paths = [("server-config", None), ("model", {"name": "second"}), ("model", None)]
            found[origin] = [
                page.evaluate(CALL, [url, f"/api/v1/{path}", body]) for path, body in paths
            ]
    settings, refused, current = found[elsewhere]
    assert settings[1]["disableModelSwitch"]
    assert refused[0] == 403
    assert "another origin cannot choose a model" in refused[1]["errors"]
    assert current[1]["name"] == "spn"
    settings, chosen, current = found[url]
    assert not settings[1]["disableModelSwitch"]
    assert (chosen[0], chosen[1]["name"], current[1]["name"]) == (200, "second", "second")


def test_a_chosen_model_that_is_served_no_more_is_forgotten(serving, replica, two_models, make):
    with httpx.Client() as client:
        with serving(two_models, HttpConfig()) as url:
            client.post(f"{url}/api/v1/model", json={"name": "second"})
            assert client.get(f"{url}/api/v1/model").json()["name"] == "second"
        with serving(replica, HttpConfig()) as url:
            assert client.get(f"{url}/api/v1/model").json()["name"] == "spn"
            assert not client.cookies


def test_end_of_an_inpainting_is_told_by_socket_io(serving, replica, make):
    """By the protocol itself: Engine.IO's packets by polling, of which 4 is a message."""
    hole = make.hole(40, 50, slice(10, 20), slice(10, 30))
    body = {
        "image": base64.b64encode(make.file(make.photograph(40, 50))).decode(),
        "mask": base64.b64encode(make.file(hole)).decode(),
    }
    with serving(replica, HttpConfig()) as url, httpx.Client(base_url=url, timeout=60) as client:
        path = "/socket.io/?EIO=4&transport=polling"
        opened = client.get(path)
        assert opened.text.startswith("0{")
        assert '"upgrades":[]' in opened.text
        session = f"{path}&sid={opened.text.partition('sid')[2].split(chr(34))[2]}"
        assert client.post(session, content="40").text.upper() == "OK"
        assert client.get(session).text.startswith("40")
        assert client.post("/api/v1/inpaint", json=body).status_code == 200
        events = ""
        while "diffusion_finish" not in events:
            events += client.get(session).text
    assert "diffusion_progress" in events
