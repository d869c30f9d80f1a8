"""The page for voting over real HTTP."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import httpx
import numpy as np
import pytest
import uvicorn
from playwright.sync_api import expect

from infill.pipeline.user_study import StudyConfig, make_app, prepare
from infill.pipeline.user_study import app as voting
from infill.pipeline.user_study.votes import read_votes


@pytest.fixture(scope="module")
def study(evaluations, tmp_path_factory):
    return prepare(
        StudyConfig(
            evaluations=tuple(one.out for one in evaluations),
            num_pairs=5,
            out=str(tmp_path_factory.mktemp("study")),
        )
    )


@pytest.fixture
def client(study, tmp_path) -> Iterator[httpx.Client]:
    """Serve the study's questions with votes of the test's own."""
    own = replace(study, out=str(tmp_path))
    (tmp_path / "pictures").symlink_to(f"{study.out}/pictures")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(make_app(own, 4), host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.study = own
        yield client
    server.should_exit = True
    thread.join()


def ask(client, voter: str = "voter0001") -> dict:
    return client.get("/api/questions", params={"voter": voter}).raise_for_status().json()


def test_page_for_voting_is_not_cut(client, require_fit):
    require_fit(str(client.base_url))


def test_the_user_votes_until_nothing_is_left(client):
    for left in (4, 3, 2, 1):
        found = ask(client)
        assert (found["kind"], found["asked"], len(found["left"])) == ("paired", 4, left)
        question = found["left"][0]
        for name in question["pictures"]:
            reply = client.get(f"/pictures/{name}").raise_for_status()
            assert reply.headers["content-type"] == "image/png"
            assert cv2.imdecode(np.frombuffer(reply.content, np.uint8), 1).shape == (48, 48, 3)
        vote = {"voter": "voter0001", "question": question["id"], "took_ms": 1500}
        reply = client.post("/api/votes", json={**vote, "choice": question["pictures"][0]})
        assert reply.status_code == 201
    assert ask(client)["left"] == []
    assert len(ask(client, "voter0002")["left"]) == 4
    assert len(read_votes(client.study)) == 4


def test_nothing_sent_names_a_method(client):
    texts = [client.get("/").text, client.get("/api/questions?voter=voter0001").text]
    for text in texts:
        assert not any(word in text for word in ("spn", "seven", "telea"))


def test_page_stands_alone(client):
    reply = client.get("/")
    assert "https://" not in reply.text
    assert "http://" not in reply.text
    assert "default-src 'self'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"{", 400, "JSON object"),
        (b"[]", 400, "has the fields"),
        (b'{"voter": "voter0001"}', 400, "has the fields"),
        (b"x" * 5000, 413, "at most 4096 bytes"),
    ],
)
def test_bodies_that_are_no_vote_are_refused(client, body, status, complaint):
    reply = client.post("/api/votes", content=body)
    assert reply.status_code == status
    assert complaint in reply.json()["error"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"took_ms": "soon"}, "took_ms must be a whole number"),
        ({"took_ms": True}, "took_ms must be a whole number"),
        ({"took_ms": -1}, "took_ms must be milliseconds"),
        ({"voter": 7}, "voter must be text"),
        ({"voter": "../x"}, "voter must be"),
        ({"choice": "another"}, "choice must be one of"),
        ({"question": "unknown"}, "no question"),
    ],
)
def test_votes_that_answer_nothing_are_the_voters_fault(client, changes, complaint):
    question = ask(client)["left"][0]
    vote = {
        "voter": "voter0001",
        "question": question["id"],
        "choice": question["pictures"][0],
        "took_ms": 900,
    }
    reply = client.post("/api/votes", json={**vote, **changes})
    assert reply.status_code == 400
    assert complaint in reply.json()["error"]
    assert read_votes(client.study) == []


def test_other_files_cannot_be_reached(client):
    for name in ("study", "..%2Fstudy", "..%2F..%2Fetc%2Fpasswd"):
        assert client.get(f"/pictures/{name}").status_code == 404
    assert client.get("/api/questions?voter=..%2F..").status_code == 400


def test_made_up_voters_fill_no_disk(client, monkeypatch):
    monkeypatch.setattr(voting, "MOST_VOTERS", 2)
    question = ask(client)["left"][0]
    statuses = [
        client.post(
            "/api/votes",
            json={
                "voter": f"voter{number:04d}",
                "question": question["id"],
                "choice": question["pictures"][0],
                "took_ms": 900,
            },
        ).status_code
        for number in (1, 2, 3, 1)
    ]
    assert statuses == [201, 201, 503, 201]


def test_the_user_clicks_and_presses_through_the_page(client, browser):
    with browser.new_context() as context:
        page = context.new_page()
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(str(client.base_url))
        for turn in range(4):
            expect(page.locator("#progress")).to_have_js_property("value", turn)
            expect(page.locator("#pictures img")).to_have_count(2)
            names = [
                image.get_attribute("src").rsplit("/", 1)[-1]
                for image in page.locator("#pictures img").all()
            ]
            page.wait_for_timeout(50)
            if turn % 2:
                page.keyboard.press("ArrowRight")
            else:
                page.click("#pictures button >> nth=0")
            expect(page.locator("#progress")).to_have_js_property("value", turn + 1)
            votes = {vote.choice for vote in read_votes(client.study)}
            assert names[turn % 2] in votes
        assert page.text_content("#asked") == "Thank you"
        assert not complaints
        page.reload()
        expect(page.locator("#asked")).to_have_text("Thank you")
    votes = read_votes(client.study)
    assert len(votes) == 4
    assert len({vote.voter for vote in votes}) == 1
    assert all(vote.took_ms >= 0 for vote in votes)
